/** What goes wrong during the soak's moves, at a random moment of each. */
import { setTimeout as delay } from "node:timers/promises";

import type { TestCluster } from "../e2e/cluster.ts";
import { signal } from "../faults/faults.ts";
import { movers } from "../faults/host-view.ts";
import { cutOffScheduler } from "../faults/partition.ts";
import { DAMAGES, orderDamage, withdrawDamage } from "../faults/stream-damage.ts";

export const TROUBLES = [
  "none",
  "none",
  "none",
  "kill source's agent",
  "kill target's agent",
  "kill another agent",
  "pause source's agent",
  "pause target's agent",
  "kill source's criu",
  "kill target's criu",
  "kill scheduler",
  "pause scheduler",
  "kill nats",
  "pause nats",
  "cut source off",
  "cut target off",
  "cancel",
  ...DAMAGES.map((damage) => `${damage} chunks` as const),
] as const;
export type Trouble = (typeof TROUBLES)[number];

export interface Scene {
  readonly cluster: TestCluster;
  readonly source: string;
  readonly target: string;
  readonly other: string;
  readonly containerId: string;
  readonly migration: string;
  readonly lastsMs: number;
}

const DAMAGED_EVERY = 7;

/** Does it and makes it good again, as whatever starts a host's services would. */
export async function trouble(kind: Trouble, scene: Scene): Promise<void> {
  const { cluster, source, target, other, lastsMs } = scene;
  const { dev } = cluster;
  switch (kind) {
    case "none":
      return;
    case "kill source's agent":
      return signal(await dev.node(source).agentPid(), "SIGKILL");
    case "kill target's agent":
      return signal(await dev.node(target).agentPid(), "SIGKILL");
    case "kill another agent":
      return signal(await dev.node(other).agentPid(), "SIGKILL");
    case "pause source's agent":
      return await pause(await dev.node(source).agentPid(), lastsMs);
    case "pause target's agent":
      return await pause(await dev.node(target).agentPid(), lastsMs);
    case "kill source's criu":
      return killCriu(scene, source);
    case "kill target's criu":
      return killCriu(scene, target);
    case "kill scheduler":
      await dev.killApi();
      return await dev.startApi();
    case "pause scheduler":
      return await pause(pidOf(cluster, "api"), lastsMs);
    case "kill nats":
      await dev.killNats();
      return await dev.startNats();
    case "pause nats":
      return await pause(pidOf(cluster, "nats"), lastsMs);
    case "cut source off":
    case "cut target off": {
      await using _ = await cutOffScheduler(cluster, kind === "cut source off" ? source : target);
      return await delay(lastsMs);
    }
    case "cancel":
      // It may be too late for that, which is no trouble.
      return await new Promise<void>((resolve) => {
        cluster.api.cancelMigration({ id: scene.migration }, () => resolve());
      });
    default: {
      const folder = dev.node(source).stateDir;
      const damage = DAMAGES.find((one) => kind.startsWith(one)) ?? "drop";
      orderDamage(folder, { damage, every: DAMAGED_EVERY });
      await delay(lastsMs);
      return withdrawDamage(folder);
    }
  }
}

function killCriu({ cluster, containerId }: Scene, node: string): void {
  for (const { pid, command } of movers(cluster, node, containerId))
    if (/dump|restore|swrk/.test(command)) signal(pid, "SIGKILL");
}

async function pause(pid: number, ms: number): Promise<void> {
  signal(pid, "SIGSTOP");
  await delay(ms);
  signal(pid, "SIGCONT");
}

function pidOf(cluster: TestCluster, name: string): number {
  return cluster.dev.processes().find((one) => one.name === name)?.pid ?? 0;
}
