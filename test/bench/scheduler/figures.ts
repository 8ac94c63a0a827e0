/** What the scheduler's benchmark finds, and the table of it. */
import Table from "cli-table3";

import type { Disk } from "./disk.ts";

/** Of the longest wait in a time, in milliseconds. */
export interface Stall {
  readonly appendMedianMs: number;
  readonly appendMaxMs: number;
  readonly loopMaxMs: number;
}

export interface Stalls {
  readonly snapshotMs: number;
  /** While a snapshot was made. */
  readonly during: Stall;
  /** Without one: what the machine and the reports do by themselves. */
  readonly without: Stall;
}

export interface Others extends Stalls {
  readonly loadMs: number;
  readonly snapshotLoadMs: number;
  readonly takeOverMs: number;
  readonly failOverMs: number;
}

export interface Figures extends Others, Disk {
  readonly nodes: number;
  readonly containers: number;
  readonly placementsPerSecond: number;
  /** CPU time of the process for each placement, in microseconds. */
  readonly cpuUsEach: number;
  /** Of the scheduler's event loop, meanwhile. */
  readonly busyShare: number;
  /** Of the log, that all of it took. */
  readonly entries: number;
  readonly runMedianMs: number;
  readonly run99Ms: number;
  readonly pacedMedianMs: number;
  readonly paced99Ms: number;
  readonly bytesPerContainer: number;
  readonly loadStallMs: number;
  readonly drainPlanMs: number;
  readonly balancingRoundMs: number;
  readonly reportsCpuShare: number;
}

const digits = (value: number, places = 0): string => (Number.isFinite(value) ? value.toFixed(places) : "-");

export function renderTable(figures: readonly Figures[]): string {
  const table = new Table({
    head: [
      "nodes",
      "containers",
      "placements/s",
      "µs CPU each",
      "run ms (99 %)",
      "at a rate ms (99 %)",
      "disk ms (99 %, max)",
      "bytes/container",
      "drain plan ms",
      "round ms",
      "reports, cores",
      "load s: log, snapshot",
      "take over ms",
      "fail-over ms",
      "snapshot s",
      "append max ms (without)",
      "loop stall ms (without)",
    ],
    style: { head: [], border: [] },
    colAligns: Array.from({ length: 17 }, () => "right" as const),
  });
  for (const one of figures)
    table.push([
      one.nodes,
      one.containers,
      digits(one.placementsPerSecond),
      digits(one.cpuUsEach),
      `${digits(one.runMedianMs, 1)} (${digits(one.run99Ms, 1)})`,
      `${digits(one.pacedMedianMs, 1)} (${digits(one.paced99Ms, 1)})`,
      `${digits(one.syncMedianMs, 1)} (${digits(one.sync99Ms, 1)}, ${digits(one.syncMaxMs)})`,
      digits(one.bytesPerContainer),
      digits(one.drainPlanMs, 1),
      digits(one.balancingRoundMs, 1),
      digits(one.reportsCpuShare, 2),
      `${digits(one.loadMs / 1000, 1)}, ${digits(one.snapshotLoadMs / 1000, 1)}`,
      digits(one.takeOverMs),
      digits(one.failOverMs),
      digits(one.snapshotMs / 1000, 1),
      `${digits(one.during.appendMaxMs)} (${digits(one.without.appendMaxMs)})`,
      `${digits(one.during.loopMaxMs)} (${digits(one.without.loopMaxMs)})`,
    ]);
  return table.toString();
}
