/** In the place of agent/checkpoint/resumption.ts. */
import { context } from "../context.ts";
import { sleep } from "./timers.ts";

/** What is told to go on has begun by then. */
const AT_WORK_MS = 40;

export async function mayHaveResumed(imagesDir: string): Promise<boolean> {
  const { kernel } = context();
  const [machine = "", id = ""] = imagesDir.split("/");
  await sleep(AT_WORK_MS);
  return kernel.machines.get(machine)?.images.get(id)?.resumes === true;
}
