/**
 * What containers wait for because of their own CPU limits. The kernel counts a throttled task among those that wait
 * for a CPU (measured: one container at its limit of 0.08 cores, an idle machine, 64 % pressure), but it would wait on
 * an idle host just the same: such a host is no worse a place than another, and moving its containers away gains nothing.
 */
import type { Pressure, PressureAverages } from "../../proto/gen/godwit/v1/spec.ts";

/** The kernel's exponentially decaying means, by their time constants in seconds. */
const WINDOWS = [
  ["avg10", 10],
  ["avg60", 60],
  ["avg300", 300],
] as const;
type Averages = Record<(typeof WINDOWS)[number][0], number>;

export interface LimitedContainer {
  readonly id: string;
  /**
   * How long its limit has kept it from running, in µs since its cgroup was made, as the kernel counts: a second for each
   * CPU that it would have had. Undefined: it has no limit.
   */
  throttledUsec: () => number | undefined;
  /** Of all CPUs, likewise. */
  usedUsec: () => number;
  /** How its own tasks wait; undefined: not measured. */
  pressure: () => Pressure | undefined;
}

interface Counters {
  readonly throttledUsec: number;
  readonly usedUsec: number;
  readonly atMs: number;
}

interface Throttling extends Counters {
  /** Percent of the time. */
  readonly share: Averages;
}

export class OwnLimits {
  #throttlings = new Map<string, Throttling>();

  /** The pressure of a host without that which its containers' limits explain. Called regularly. */
  without(pressure: Pressure, containers: Iterable<LimitedContainer>, nowMs: number): Pressure {
    const throttlings = new Map<string, Throttling>();
    const waits: Averages[] = [];
    for (const container of containers) {
      const throttledUsec = container.throttledUsec();
      if (throttledUsec === undefined) continue;
      const counters = { throttledUsec, usedUsec: container.usedUsec(), atMs: nowMs };
      const throttling = advance(this.#throttlings.get(container.id), counters);
      throttlings.set(container.id, throttling);
      const { share } = throttling;
      if (share.avg300 > 0) waits.push(explained(share, container.pressure()?.cpuSome));
    }
    this.#throttlings = throttlings;
    return pressure.cpuSome === undefined
      ? pressure
      : { ...pressure, cpuSome: rest(pressure.cpuSome, waits) };
  }
}

function advance(before: Throttling | undefined, now: Counters): Throttling {
  if (before === undefined) return { ...now, share: { avg10: 0, avg60: 0, avg300: 0 } };
  const elapsedMs = now.atMs - before.atMs;
  if (elapsedMs <= 0) return before;
  const percent = throttledPercent(before, now, elapsedMs);
  const share = { ...before.share };
  for (const [name, seconds] of WINDOWS)
    share[name] += (1 - Math.exp(-elapsedMs / 1_000 / seconds)) * (percent - share[name]);
  return { ...now, share };
}

/**
 * Of the time. What it has used and what it was kept from using are what its tasks would have had, on as many CPUs: the
 * more of them the sooner its limit is reached, and the share of either is that of the time.
 */
function throttledPercent(before: Counters, now: Counters, elapsedMs: number): number {
  const throttledMs = (now.throttledUsec - before.throttledUsec) / 1_000;
  const usedMs = (now.usedUsec - before.usedUsec) / 1_000;
  // Counters that have fallen are others: the container was started anew.
  if (throttledMs < 0 || usedMs < 0) return 0;
  return (100 * throttledMs) / Math.max(elapsedMs, throttledMs + usedMs);
}

/** Never more than it waits at all: a group may count as throttled whose tasks sleep. */
function explained(share: Averages, own: PressureAverages | undefined): Averages {
  if (own === undefined) return share;
  const least = { ...share };
  for (const [name] of WINDOWS) least[name] = Math.min(share[name], own[name]);
  return least;
}

/** Of somebody waiting at a moment, what is left without those; as if one's waiting said nothing about another's. */
function rest(host: PressureAverages, waits: readonly Averages[]): PressureAverages {
  const left = { ...host };
  for (const [name] of WINDOWS) {
    const noneOfThem = waits.reduce((product, wait) => product * (1 - wait[name] / 100), 1);
    left[name] = noneOfThem === 0 ? 0 : Math.max(0, 100 * (1 - (1 - host[name] / 100) / noneOfThem));
  }
  return left;
}
