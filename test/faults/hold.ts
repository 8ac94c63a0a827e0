/**
 * How a process of the cluster is stopped at one point of a move: the test leaves an order in its folder, and the
 * process stops itself (SIGSTOP) when it comes there. Whatever is done to it or to others then happens exactly at
 * that point.
 */
import { appendFileSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { When } from "./points.ts";

interface Order {
  readonly point: string;
  readonly when: When;
}

const ORDER = "hold.json";
const HELD = "held.json";
/** As long as it is there, every point that is passed is noted in it. */
const PASSED = "passed.log";

/** In the process: at every point that it passes. Returns when the test lets it go on. */
export function passPoint(folder: string, point: string, when: When): void {
  const passed = join(folder, PASSED);
  if (existsSync(passed)) appendFileSync(passed, `${when} ${point}\n`);
  const order = read<Order>(join(folder, ORDER));
  if (order?.point !== point || order.when !== when) return;
  rmSync(join(folder, ORDER)); // whoever comes after this process is not stopped again
  writeFileSync(join(folder, `${HELD}.new`), JSON.stringify({ pid: process.pid }));
  renameSync(join(folder, `${HELD}.new`), join(folder, HELD));
  process.kill(process.pid, "SIGSTOP");
}

export function orderHold(folder: string, order: Order): void {
  rmSync(join(folder, HELD), { force: true });
  writeFileSync(join(folder, ORDER), JSON.stringify(order));
}

/** From now on. */
export const notePoints = (folder: string): void => writeFileSync(join(folder, PASSED), "");

/** In the order in which they were passed, each as "before phase READY". */
export const passedPoints = (folder: string): string[] =>
  readFileSync(join(folder, PASSED), "utf8").split("\n").slice(0, -1);

export function withdrawHold(folder: string): void {
  rmSync(join(folder, ORDER), { force: true });
}

/** The pid of the process that stands at the point; undefined while none does. */
export function heldProcess(folder: string): number | undefined {
  const pid = read<{ pid: number }>(join(folder, HELD))?.pid;
  if (pid === undefined) return undefined;
  // "pid (name) state …"
  const state = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.[0];
  return state === "T" ? pid : undefined;
}

function read<T>(path: string): T | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as T;
  } catch {
    return undefined; // not there: it is written by a rename, or before the process looks
  }
}
