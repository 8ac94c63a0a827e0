import { spawn } from "node:child_process";
import { once } from "node:events";

import { pino } from "pino";
import { expect, test } from "vitest";

import type { ImageSender } from "../stream/sender.ts";
import { WriteTracker } from "../tracking/write-tracker.ts";
import { MemoryRounds } from "./memory-rounds.ts";

const nothing = (): Promise<void> => Promise.resolve();
const SENDER: ImageSender = {
  ...{ write: nothing, flush: nothing, drain: nothing, finish: nothing, [Symbol.asyncDispose]: nothing },
  ...{ hurry: () => undefined, abort: () => undefined, sentBytes: 0, rawBytes: 0, offersPages: false },
};

/** A process with so much memory of its own, once it has said so. */
async function withMemory(bytes: number): Promise<{ pid: number } & Disposable> {
  const program = `const held = Buffer.alloc(${bytes}, 1); console.log(held.length); setInterval(() => held, 1e6)`;
  const child = spawn(process.execPath, ["-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout, "data");
  return { pid: child.pid ?? 0, [Symbol.dispose]: () => child.kill("SIGKILL") };
}

test("a process that began after a round is missed, if it has much memory", async () => {
  const { signal } = new AbortController();
  using tracker = new WriteTracker({ kind: "compare", reason: "for this test" }, pino({ level: "silent" }));
  const rounds = new MemoryRounds({ sender: SENDER, tracker, held: undefined, recording: undefined });
  using early = await withMemory(20e6);
  expect(rounds.hasMissed([early.pid])).toBe(false);
  const round = await rounds.copyRunning([early.pid], signal);
  expect(round.changedPages).toBeGreaterThan(4_000);
  expect(rounds.hasMissed([early.pid])).toBe(false);
  using late = await withMemory(20e6);
  expect(rounds.hasMissed([early.pid, late.pid])).toBe(true);
  await rounds.copyRunning([early.pid, late.pid], signal);
  expect(rounds.hasMissed([early.pid, late.pid])).toBe(false);
  // One that is gone by now has no memory.
  expect(rounds.hasMissed([2 ** 22])).toBe(false);
});
