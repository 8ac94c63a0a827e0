/** Faults that belong to no single point of a move: they last for all of it, or come at a time of their own. */
import { setTimeout as delay } from "node:timers/promises";

import { processStat } from "../../agent/native/process.ts";
import { until } from "../e2e/cluster.ts";
import { criuOf, PAUSE_MS, signal, whole } from "./faults.ts";
import { guestUnder } from "./guests.ts";
import { fillDisk, loseHost, squeezeMemory } from "./host-faults.ts";
import { FILLER, movers } from "./host-view.ts";
import { heldAt, type Outcome } from "./held-at.ts";
import { heldProcess, orderHold } from "./hold.ts";
import type { Laboratory } from "./laboratory.ts";
import type { WholeMoveFault } from "./rows.ts";
import { orderSpoil, spoilRestore } from "./spoil.ts";
import { DAMAGES, orderDamage, withdrawDamage } from "./stream-damage.ts";

/** From here on, a container's memory is filled on demand after a move. */
const LAZY_MB = 120;
const DAMAGED_EVERY = 5;

export async function moveUnder(laboratory: Laboratory, fault: WholeMoveFault): Promise<Outcome> {
  await whole(laboratory);
  await laboratory.refreshShims();
  if (fault.startsWith("container ")) return await guestUnder(laboratory, fault);
  if (fault.includes("after the switch") && fault.startsWith("kill")) return await killFiller(laboratory);
  const { source, target } = await laboratory.ready();
  if (fault.includes(" is gone for good ")) return await loseHost(laboratory, fault, source, target);
  const damage = DAMAGES.find((one) => fault.startsWith(one));
  if (damage !== undefined) {
    const folder = laboratory.holdFolder(fault.endsWith("chunks") ? source : target);
    orderDamage(folder, { damage, every: DAMAGED_EVERY });
    try {
      return await moveAndCheck(laboratory, source, target);
    } finally {
      withdrawDamage(folder);
    }
  }
  switch (fault) {
    case "kill runc":
    case "pause runc":
      return await moveAndCheck(laboratory, source, target, async (isOver) => {
        const pid = await firstRunc(laboratory, target, isOver);
        signal(pid, fault === "kill runc" ? "SIGKILL" : "SIGSTOP");
        if (fault === "kill runc") return;
        await delay(PAUSE_MS);
        signal(pid, "SIGCONT");
      });
    case "kill criu 5 ms into the dump":
    case "kill criu 30 ms into the dump":
      return await heldAt(laboratory, source, "criu network-lock", "after", async (held) => {
        const id = await laboratory.startMove(target);
        const pid = await held();
        const criu = criuOf(laboratory, source, pid);
        signal(pid, "SIGCONT");
        await delay(Number(/\d+/.exec(fault)?.[0]));
        for (const one of criu) signal(one.pid, "SIGKILL");
        return await checkedInsideDump(laboratory, id, source, target);
      });
    case "target's disk is full": {
      await using _ = await fillDisk(laboratory, target);
      const id = await laboratory.startMove(target);
      const { state, error } = await laboratory.ended(id);
      if (state === "finished") throw new Error("the move ended well on a full disk");
      await _[Symbol.asyncDispose]();
      await laboratory.checkUnharmed(source);
      return { outcome: "stayed", words: error };
    }
    case "target is out of memory": {
      await using _ = squeezeMemory(laboratory, target);
      return await moveAndCheck(laboratory, source, target);
    }
    case "target's CRIU can never restore":
      orderSpoil(laboratory, target);
      return await moveAndCheck(laboratory, source, target, () => spoilRestore(laboratory, target));
    default:
      throw new Error(`nothing is known of '${fault}'`);
  }
}

async function moveAndCheck(
  laboratory: Laboratory,
  source: string,
  target: string,
  during: (isOver: () => boolean) => Promise<void> = () => Promise.resolve(),
): Promise<Outcome> {
  const id = await laboratory.startMove(target);
  let over = false;
  const doing = during(() => over);
  doing.catch(() => undefined); // awaited below
  await laboratory.ended(id);
  over = true;
  await doing;
  return await checked(laboratory, id, source, target);
}

async function checked(laboratory: Laboratory, id: string, source: string, target: string): Promise<Outcome> {
  const { state, error } = await laboratory.ended(id);
  await whole(laboratory);
  await laboratory.checkUnharmed(state === "finished" ? target : source);
  return { outcome: state === "finished" ? "moved" : "stayed", words: error };
}

/** The first runc that is seen at work on the host. */
async function firstRunc(laboratory: Laboratory, node: string, isOver: () => boolean): Promise<number> {
  while (!isOver()) {
    const [found] = movers(laboratory.cluster, node, laboratory.containerId).filter(({ command }) =>
      /(^|\/)runc\0/.test(command),
    );
    if (found !== undefined) return found.pid;
    await delay(1);
  }
  throw new Error(`no runc was seen on ${node}`);
}

/** What fills the container's memory on the target dies while it still has work to do and the container runs. */
async function killFiller(laboratory: Laboratory): Promise<Outcome> {
  const { target } = await laboratory.ready(LAZY_MB);
  return await heldAt(laboratory, target, "status restoring:ran", "after", async (held) => {
    const id = await laboratory.startMove(target);
    const agent = await held();
    const filler = fillerOn(laboratory, target);
    // Or it would be done before CRIU has come to its last step.
    signal(filler, "SIGSTOP");
    const folder = laboratory.holdFolder(target);
    orderHold(folder, { point: "criu pre-resume", when: "after" });
    signal(agent, "SIGCONT");
    await until("CRIU to come to its last step", () => heldProcess(folder));
    signal(filler, "SIGKILL");
    signal(agent, "SIGCONT");
    // It must not run on with zeros in place of its memory: it is ended, and that is recorded.
    const name = "killed: what filled its memory";
    await until("a record of why it has ended", async () =>
      (await laboratory.cluster.must("events")).includes(name),
    );
    await laboratory.ended(id);
    await until("it to be started afresh", async () => {
      const row = await laboratory.container();
      return row.state === "running" && row.node === target && row.restarts === 1;
    });
    if (laboratory.cluster.runningOn(laboratory.containerId).join() !== target)
      throw new Error("there is another copy");
    await laboratory.discard();
    return { outcome: "ended", words: `${name} after the move died …; started afresh` };
  });
}

/** Not the process that holds its descriptors, which it has started. */
function fillerOn(laboratory: Laboratory, node: string): number {
  const found = movers(laboratory.cluster, node, laboratory.containerId)
    .filter(({ command }) => command.includes(FILLER))
    .map(({ pid }) => pid);
  const filler = found.find((pid) => !found.includes(processStat(pid)?.parentPid ?? 0));
  if (filler === undefined) throw new Error("nothing fills its memory");
  return filler;
}

/**
 * While CRIU is inside a dump the container's sockets are in the kernel's repair mode, and its tasks run as soon as
 * CRIU is gone: one that reads before the agent has ended that mode gets an error. Nothing can be done about that from
 * outside CRIU; all else must be as ever.
 */
async function checkedInsideDump(
  laboratory: Laboratory,
  id: string,
  source: string,
  target: string,
): Promise<Outcome> {
  const { state, error } = await laboratory.ended(id);
  const home = state === "finished" ? target : source;
  const { cluster, containerId } = laboratory;
  await until(`one running copy, on ${home}`, () => cluster.runningOn(containerId).join() === home);
  try {
    return await checked(laboratory, id, source, target);
  } catch (failure) {
    if (!/ECONNRESET|Connection is closed|lost: /.test(String(failure))) throw failure;
  }
  await laboratory.discard();
  return { outcome: "ended", words: `${error}; it goes on, but its connection was cut` };
}
