/** In the place of agent/migrate/thaw.ts. */
import type { ContainerRuntime } from "../../../agent/container/runtime.ts";
import type { ContainerRecord } from "../../../agent/model/record.ts";
import { context } from "../context.ts";
import { sleep } from "./timers.ts";

export async function thaw(runtime: ContainerRuntime, record: ContainerRecord): Promise<void> {
  if (record.status.kind !== "frozen") return;
  await sleep(context().random.between(0, 20));
  runtime.cgroup.thaw();
}
