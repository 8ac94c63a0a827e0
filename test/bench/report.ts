/** The bench's series as a table. Pure. */
import Table from "cli-table3";

import type { MoveSample, Series } from "./series.ts";
import { median, quantile } from "./statistics.ts";

const TITLES = {
  "godwit-auto": "godwit move",
  "godwit-checkpoint": "godwit move --mode checkpoint",
  runc: "runc checkpoint + restore",
  podman: "podman checkpoint -e + restore -i",
} as const;
/** Phases whose sum is a floor: what freezing, dumping and restoring everything takes at least. */
const FLOORS: Partial<
  Record<Series["method"], { readonly title: string; readonly phases: readonly string[] }>
> = {
  // What a dump writes is sent meanwhile, which can make it longer.
  "godwit-checkpoint": {
    title: "  its freeze + dump + restore",
    phases: ["freezeMs", "dumpMs", "restoreMs"],
  },
  runc: { title: "  CRIU's own frozen + restore", phases: ["criuFrozenMs", "criuRestoreMs"] },
};

const milliseconds = (values: readonly number[], share = 0.5): string =>
  values.length === 0 ? "-" : quantile(values, share).toFixed(0);
const mebibytes = (values: readonly number[]): string =>
  values.length === 0 ? "-" : (median(values) / 1048576).toFixed(1);

function known(samples: readonly MoveSample[], pick: (sample: MoveSample) => number | undefined): number[] {
  return samples.map(pick).filter((value) => value !== undefined);
}

const stalls = (series: Series | undefined): number[] =>
  (series?.samples ?? []).filter(({ isIntact }) => isIntact).map(({ stallMs }) => stallMs);

function sums(series: Series, phases: readonly string[]): number[] {
  return known(series.samples, ({ phasesMs }) => {
    const parts = phases.map((phase) => phasesMs[phase] ?? Number.NaN);
    const sum = parts.reduce((total, part) => total + part, 0);
    return Number.isNaN(sum) ? undefined : sum;
  });
}

/** How many times as long the other's stall is. */
function ratio(own: readonly number[], other: readonly number[]): string {
  return own.length === 0 || other.length === 0 ? "-" : `${(median(other) / median(own)).toFixed(1)}×`;
}

/** Median of how far the forecast of the blackout was off, either way. */
function forecastError(samples: readonly MoveSample[]): string {
  const errors = known(samples, ({ blackoutMs, predictedBlackoutMs }) =>
    blackoutMs === undefined || blackoutMs === 0 || predictedBlackoutMs === undefined
      ? undefined
      : Math.abs(predictedBlackoutMs - blackoutMs) / blackoutMs,
  );
  return errors.length === 0 ? "-" : `${(median(errors) * 100).toFixed(0)}%`;
}

export function renderTable(all: readonly Series[]): string {
  const table = new Table({
    head: [
      ...["size MB", "tasks", "writes MB/s", "method", "moves", "kept", "stall ms", "p95 ms"],
      ...["blackout ms", "forecast off", "total ms", "memory MiB", "sent MiB", "podman/this", "runc/this"],
    ],
    colAligns: [
      ...(["right", "right", "right", "left", "right", "right", "right", "right"] as const),
      ...(["right", "right", "right", "right", "right", "right", "right"] as const),
    ],
    style: { head: [], border: [], compact: true },
  });
  for (const series of all) {
    const { samples, sizeMegabytes, processes, writeMegabytesPerSecond, method } = series;
    const other = (name: Series["method"]): number[] =>
      stalls(
        all.find(
          (candidate) =>
            candidate.method === name &&
            candidate.sizeMegabytes === sizeMegabytes &&
            candidate.processes === processes &&
            candidate.writeMegabytesPerSecond === writeMegabytesPerSecond,
        ),
      );
    const own = stalls(series);
    table.push([
      ...[sizeMegabytes, processes, writeMegabytesPerSecond, TITLES[method], samples.length],
      `${samples.filter(({ isIntact }) => isIntact).length}/${samples.length}`,
      ...[milliseconds(own), milliseconds(own, 0.95)],
      milliseconds(known(samples, (sample) => sample.blackoutMs)),
      forecastError(samples),
      milliseconds(samples.map(({ totalMs }) => totalMs)),
      mebibytes(known(samples, (sample) => sample.memoryBytes)),
      mebibytes(samples.map(({ sentBytes }) => sentBytes)),
      ...[ratio(own, other("podman")), ratio(own, other("runc"))],
    ]);
    const floorOf = FLOORS[method];
    const floor = floorOf === undefined ? [] : sums(series, floorOf.phases);
    if (floorOf !== undefined && floor.length > 0) {
      table.push([
        ...[sizeMegabytes, processes, writeMegabytesPerSecond, floorOf.title, floor.length, ""],
        ...[milliseconds(floor), milliseconds(floor, 0.95), "", "", "", "", "", "", ""],
      ]);
    }
  }
  return table.toString();
}

/** What cannot be said in a cell. */
export function notesOf(all: readonly Series[]): string[] {
  return all
    .filter(({ note }) => note !== "")
    .map(
      ({ method, sizeMegabytes, processes, writeMegabytesPerSecond, note, samples }) =>
        `${TITLES[method]} (${sizeMegabytes} MB in ${processes}, ${writeMegabytesPerSecond} MB/s), after ${samples.length} moves: ${note}`,
    );
}
