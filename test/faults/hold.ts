/**
 * How a process of the cluster is stopped at one point of a move: the test leaves an order in its folder, and the
 * process stops itself (SIGSTOP) when it comes there. Whatever is done to it or to others then happens exactly at
 * that point.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { When } from "./points.ts";

interface Order {
  readonly point: string;
  readonly when: When;
}

const ORDER = "hold.json";
const HELD = "held.json";

/** In the process: at every point that it passes. Returns when the test lets it go on. */
export function passPoint(folder: string, point: string, when: When): void {
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
