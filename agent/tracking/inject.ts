import { closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { takeDescriptor } from "../native/descriptors.ts";
import { type Registers, TracedThread, type TraceStop } from "../native/ptrace.ts";
import { SYS_USERFAULTFD, USERFAULTFD_FLAGS } from "../native/userfaultfd.ts";

/** A process stands still for this long at the most; one that cannot be stopped is left alone. */
const PATIENCE_MS = 100;
const SYS_CLOSE = 3;
const SYSCALL_INSTRUCTION = Buffer.from([0x0f, 0x05]);
const VDSO_BYTES = 64 * 1024;

/**
 * A userfaultfd belongs to the memory of the process that makes it, so a process that is to be tracked has to make it
 * itself. Its threads are stopped for some hundred microseconds, one of them executes the call (an instruction that
 * every process has in its vDSO; nothing is written into its memory), and goes on as if nothing had happened: with
 * its registers, and a system call that was interrupted is started again by the kernel.
 *
 * Whoever is killed in the middle of this leaves a thread with wrong registers: it happens in a process of its own,
 * which does nothing else.
 * @returns the descriptor, in this process; the tracked one keeps none
 * @throws GodwitError when the process cannot be stopped in time, is gone, or is not a 64-bit one; "unavailable" when it
 * is held still, and only the end of this process lets it go
 */
export function makeUserfaultfdIn(pid: number): number {
  const deadlineMs = performance.now() + PATIENCE_MS;
  const instruction = findSyscallInstruction(pid);
  const threads = new Map<number, TracedThread>();
  const stopped = new Set<TracedThread>();
  const refused = (why: string): GodwitError => new GodwitError("refused", `process ${pid} ${why}`);
  try {
    // A thread may be born while others are being stopped.
    for (let before = -1; before !== threads.size;) {
      before = threads.size;
      for (const tid of threadsOf(pid)) {
        if (threads.has(tid)) continue;
        const thread = TracedThread.seize(tid);
        threads.set(tid, thread);
        thread.interrupt();
      }
      for (const thread of threads.values()) {
        if (stopped.has(thread)) continue;
        const stop = thread.waitForStop(deadlineMs);
        if (stop === undefined) throw refused(`does not stop within ${PATIENCE_MS} ms`);
        if (stop.kind === "gone") throw refused("has ended");
        stopped.add(thread);
        if (stop.kind === "stopped") throw refused("is stopped (SIGSTOP)");
      }
    }
    const leader = threads.get(pid);
    if (leader === undefined) throw refused("has lost its first thread");
    return callsIn(leader, instruction, (call) => {
      const theirs = call(SYS_USERFAULTFD, USERFAULTFD_FLAGS);
      if (theirs < 0) throw refused(`gets no userfaultfd: errno ${-theirs}`);
      try {
        return takeDescriptor(pid, theirs);
      } finally {
        call(SYS_CLOSE, theirs);
      }
    });
  } finally {
    for (const thread of stopped) thread.detach();
    letGo([...threads.values()].filter((thread) => !stopped.has(thread)));
  }
}

/** A thread that waits in vfork stops when its child begins a program, and so do those of a host under heavy load. */
const LET_GO_MS = 3_000;

/** Threads that were asked to stop and have not yet: each would stand still from when it does. */
function letGo(threads: readonly TracedThread[]): void {
  const deadlineMs = performance.now() + LET_GO_MS;
  for (const thread of threads) {
    const stop = thread.waitForStop(deadlineMs);
    if (stop === undefined) throw new GodwitError("unavailable", `thread ${thread.tid} cannot be let go`);
    if (stop.kind !== "gone") thread.detach();
  }
}

/** Executes system calls in a stopped thread, which stands as it did before when this returns or throws. */
function callsIn<T>(
  thread: TracedThread,
  instruction: bigint,
  body: (call: (number: number, first: number) => number) => T,
): T {
  const registers = thread.registers();
  if (!registers.is64Bit) throw new GodwitError("refused", `process ${thread.tid} is not a 64-bit one`);
  const mask = thread.signalMask();
  thread.setSignalMask(Buffer.alloc(mask.byteLength, 0xff));
  try {
    return body((number, first) => call(thread, registers.forCall(instruction, number, first)));
  } finally {
    thread.setRegisters(registers);
    thread.setSignalMask(mask);
    // From a place of the kernel's where it looks whether the thread's own call is to be started again.
    thread.interrupt();
    thread.continue();
    mustStop(thread);
  }
}

/**
 * A thread that is to make a call, or to get its own registers back, is waited for however long a busy host takes:
 * giving it up half-way would end it.
 */
const MUST_STOP_MS = 300_000;

function mustStop(thread: TracedThread): TraceStop {
  return thread.waitForStop(performance.now() + MUST_STOP_MS) ?? { kind: "gone" };
}

function call(thread: TracedThread, registers: Registers): number {
  thread.setRegisters(registers);
  // In, and out again.
  for (let stops = 0; stops < 2; stops += 1) {
    thread.continueToSyscall();
    const stop = mustStop(thread);
    if (stop.kind !== "syscall")
      throw new GodwitError("internal", `process ${thread.tid} did not make its call: ${stop.kind}`);
  }
  return Number(thread.registers().result);
}

function threadsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number);
  } catch (cause) {
    throw new GodwitError("refused", `process ${pid} has ended`, { cause });
  }
}

/** Address of a `syscall` instruction in the process's vDSO. */
function findSyscallInstruction(pid: number): bigint {
  const maps = readFileSync(`/proc/${pid}/maps`, "latin1");
  const range = /^([0-9a-f]+)-([0-9a-f]+) r.xp .*\[vdso\]$/m.exec(maps);
  if (range === null) throw new GodwitError("refused", `process ${pid} has no vDSO`);
  const start = parseInt(range[1] ?? "", 16);
  const bytes = Buffer.alloc(Math.min(parseInt(range[2] ?? "", 16) - start, VDSO_BYTES));
  const memory = openSync(`/proc/${pid}/mem`, "r");
  try {
    const read = readSync(memory, bytes, 0, bytes.byteLength, start);
    const at = bytes.subarray(0, read).indexOf(SYSCALL_INSTRUCTION);
    if (at < 0) throw new GodwitError("refused", `process ${pid} has no system call in its vDSO`);
    return BigInt(start + at);
  } finally {
    closeSync(memory);
  }
}
