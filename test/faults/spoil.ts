/** Makes it impossible for the target to restore, after the switch and before the container's first instruction. */
import { readdirSync, truncateSync } from "node:fs";

import { until } from "../e2e/cluster.ts";
import { criuOf, signal } from "./faults.ts";
import { heldProcess, orderHold } from "./hold.ts";
import type { Laboratory } from "./laboratory.ts";

/** Before the move. */
export const orderSpoil = (laboratory: Laboratory, target: string): void =>
  orderHold(laboratory.holdFolder(target), { point: "criu network-unlock", when: "before" });

/**
 * Once the target is there: its CRIU is killed, and the image that it would be restored from again is cut short.
 * @param then before the target goes on
 */
export async function spoilRestore(
  laboratory: Laboratory,
  target: string,
  then: () => void = () => undefined,
): Promise<void> {
  const folder = laboratory.holdFolder(target);
  const held = await until("the container to be the target's", () => heldProcess(folder), 60_000);
  const { shimPid, stateDir } = laboratory.cluster.dev.node(target);
  const images = `/proc/${shimPid()}/root${stateDir}/containers/${laboratory.containerId}/images`;
  for (const name of readdirSync(images)) if (name.startsWith("core-")) truncateSync(`${images}/${name}`, 10);
  for (const { pid } of criuOf(laboratory, target, held)) signal(pid, "SIGKILL");
  then();
  signal(held, "SIGCONT");
}
