/** What is done to a cluster at a point of a move, and how it is made whole again. */
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { until } from "../e2e/cluster.ts";
import { FILLER, movers } from "./host-view.ts";
import { type Laboratory, LEASE_MS } from "./laboratory.ts";
import { cutOffPeer, cutOffScheduler } from "./partition.ts";
import type { PointFault } from "./rows.ts";

/** Longer than a lease, so that the cluster notices; 20 s with GODWIT_FAULT_PAUSE_MS=20000. */
export const PAUSE_MS = Number(process.env["GODWIT_FAULT_PAUSE_MS"] ?? LEASE_MS + 2_000);

export interface Scene {
  readonly laboratory: Laboratory;
  readonly source: string;
  readonly target: string;
  /** The host of the point's side, or "scheduler". */
  readonly here: string;
  /** The process that stands at the point. */
  readonly held: number;
  readonly migration: string;
  /** The target may have the whole image: the source's copy must not run, whatever dies. */
  readonly mayBeElsewhere: boolean;
}

/** Does it. Whoever stands at the point goes on when this returns, unless it is dead. */
export async function inflict(fault: PointFault, scene: Scene): Promise<void> {
  const { laboratory, source, target, here, held } = scene;
  const { dev } = laboratory.cluster;
  const peer = here === source ? target : source;
  const goOn = (): void => signal(held, "SIGCONT");
  switch (fault) {
    case "kill agent":
      signal(held, "SIGKILL");
      return laboratory.agentDied(here);
    case "pause agent":
      await delay(PAUSE_MS);
      return goOn();
    case "kill peer's agent":
      signal(await dev.node(peer).agentPid(), "SIGKILL");
      goOn();
      return laboratory.agentDied(peer);
    case "pause peer's agent": {
      const pid = await dev.node(peer).agentPid();
      await paused(pid, goOn);
      return;
    }
    case "kill criu":
      for (const { pid } of criuOf(laboratory, here, held)) signal(pid, "SIGKILL");
      if (scene.mayBeElsewhere && (await laboratory.executesOn(source)))
        throw new Error("the source's copy runs although the target may have the whole image");
      return goOn();
    case "pause criu": {
      const pids = criuOf(laboratory, here, held).map(({ pid }) => pid);
      for (const pid of pids) signal(pid, "SIGSTOP");
      goOn();
      await delay(PAUSE_MS);
      for (const pid of pids) signal(pid, "SIGCONT");
      return;
    }
    case "kill scheduler":
      await dev.killApi();
      goOn();
      return await dev.startApi();
    case "pause scheduler":
      await paused(processId(laboratory, "api"), goOn);
      return;
    case "kill nats":
      await dev.killNats();
      goOn();
      return await dev.startNats();
    case "pause nats":
      await paused(processId(laboratory, "nats"), goOn);
      return;
    case "cut source|target": {
      await using _ = await cutOffPeer(laboratory.cluster, source, target);
      goOn();
      return await delay(PAUSE_MS);
    }
    case "cut source|scheduler":
    case "cut target|scheduler": {
      await using _ = await cutOffScheduler(
        laboratory.cluster,
        fault.startsWith("cut source") ? source : target,
      );
      goOn();
      return await delay(PAUSE_MS);
    }
    case "cancel":
      await cancel(scene);
      return goOn();
  }
}

/**
 * By the API as `migrations --cancel` uses it; it is in the log when this returns. A source that stands still holds up no
 * switch once its target has everything: whoever comes later than that is refused, and the move goes on.
 */
async function cancel({ laboratory, migration }: Scene): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    laboratory.cluster.api.cancelMigration({ id: migration }, (error) =>
      error === null || error.details.includes("already belongs to the target") ? resolve() : reject(error),
    );
  });
}

/** The one that the agent has started; what it has forked are the container's tasks. */
export function criuOf(laboratory: Laboratory, here: string, held: number): { pid: number }[] {
  const found = movers(laboratory.cluster, here, laboratory.containerId).filter(
    ({ pid, command }) =>
      new RegExp(`^PPid:\\s*${held}$`, "m").test(readFileSync(`/proc/${pid}/status`, "utf8")) &&
      !command.includes(FILLER),
  );
  if (found.length === 0) throw new Error(`no CRIU is at work on ${here}`);
  return found;
}

async function paused(pid: number, goOn: () => void): Promise<void> {
  signal(pid, "SIGSTOP");
  goOn();
  await delay(PAUSE_MS);
  signal(pid, "SIGCONT");
}

export function processId(laboratory: Laboratory, name: string): number {
  const found = laboratory.cluster.dev.processes().find((one) => one.name === name);
  if (found === undefined) throw new Error(`no ${name} is recorded`);
  return found.pid;
}

export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error; // it ended by itself
  }
}

/** Both control processes answer and every host reports. */
export async function whole(laboratory: Laboratory): Promise<void> {
  await until(
    "all nodes to be ready",
    async () => {
      const nodes = await laboratory.cluster.nodes();
      return nodes.length === 3 && nodes.every(({ state }) => state === "ready");
    },
    60_000,
  );
}
