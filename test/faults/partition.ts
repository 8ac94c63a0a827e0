/** Cuts hosts of a cluster off from each other, both ways, and lets them together again. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { CONTROL_ADDRESS } from "../../services/dev/plan.ts";
import type { TestCluster } from "../e2e/cluster.ts";

const TABLE = "fault";
const run = promisify(execFile);

/** Nothing passes between the host and these addresses until the partition is disposed of. */
export async function cutOff(
  cluster: TestCluster,
  node: string,
  addresses: readonly string[],
): Promise<AsyncDisposable> {
  const { netns } = cluster.dev.node(node);
  const set = `{ ${addresses.join(", ")} }`;
  const nft = async (...commands: string[]): Promise<void> => {
    await run("ip", ["netns", "exec", netns, "nft", commands.join("; ")], { timeout: 10_000 });
  };
  await nft(
    `add table ip ${TABLE}`,
    `add chain ip ${TABLE} in { type filter hook input priority -300; }`,
    `add chain ip ${TABLE} out { type filter hook output priority -300; }`,
    `add rule ip ${TABLE} in ip saddr ${set} drop`,
    `add rule ip ${TABLE} out ip daddr ${set} drop`,
  );
  return { [Symbol.asyncDispose]: () => nft(`delete table ip ${TABLE}`) };
}

/** nats-server, and with it the scheduler and the other host's end of an image stream. */
export const cutOffScheduler = (cluster: TestCluster, node: string): Promise<AsyncDisposable> =>
  cutOff(cluster, node, [CONTROL_ADDRESS]);

/** The other host: what containers say to each other, and whatever agents may ever say to each other directly. */
export const cutOffPeer = (cluster: TestCluster, node: string, peer: string): Promise<AsyncDisposable> =>
  cutOff(cluster, node, [cluster.dev.node(peer).underlayAddress]);
