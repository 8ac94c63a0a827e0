/**
 * Makes userfaultfds inside other processes (see inject.ts), in a process of its own that nobody ends in the middle of
 * it: it stops when its standard input ends, which an agent that dies leaves behind. One pid a line in; one line of
 * JSON (TracerAnswer) out for each. The descriptors stay open here until the end; whoever asked takes copies.
 */
import { createInterface } from "node:readline";

import { GodwitError } from "../../proto/contract/error.ts";
import { makeUserfaultfdIn } from "./inject.ts";
import type { TracerAnswer } from "./tracer.ts";

// What ends a group of processes (a terminal's interrupt, a service that is stopped) is not for this one to obey.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);

for await (const line of createInterface({ input: process.stdin })) {
  const pid = Number(line);
  let answer: TracerAnswer;
  let stuck = false;
  try {
    answer = { pid, descriptor: makeUserfaultfdIn(pid) };
  } catch (error) {
    const failure = GodwitError.from(error);
    answer = { pid, error: failure.message };
    stuck = failure.code === "unavailable";
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
  // The kernel lets go of what a tracer held when it ends.
  if (stuck) process.exit(1);
}
