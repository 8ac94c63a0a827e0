/** What a host knows of the cost of moves, from those that it has made. Pure. */
import {
  expectedCost,
  firstGuess,
  isLearnedCost,
  learn,
  type LearnedCost,
  type Prior,
} from "./learned-cost.ts";

/** The size of a container, as far as the time of its freeze depends on it. */
export interface MoveSize {
  readonly memoryBytes: number;
  readonly processes: number;
}

const MEGABYTE = 1e6;
/** Below this, putting all pages in place at once takes no longer than having them put in place on demand. */
const FILL_LATER_FROM_BYTES = 48 * 1024 * 1024;

/** Pages that processes have in common are filled in for each of them, apart: to this extent that does no harm. */
const SHARED_TIMES = 1.1;
const SHARED_BYTES = 16 * 1024 * 1024;

/** @param ownMemoryBytes what is left when pages that several processes share count once; 0: not known */
export const sharesLittle = (memoryBytes: number, ownMemoryBytes: number): boolean =>
  ownMemoryBytes === 0 || memoryBytes <= ownMemoryBytes * SHARED_TIMES + SHARED_BYTES;

/** Whether a restored container runs before its memory is in place. */
export const isFilledLater = ({ memoryBytes }: MoveSize, ownMemoryBytes = 0): boolean =>
  memoryBytes >= FILL_LATER_FROM_BYTES && sharesLittle(memoryBytes, ownMemoryBytes);

/** From the freeze to the last byte's acknowledgement, without the time that changed pages take on the link. */
const DEPARTURE_PRIOR: Prior = [
  { weight: 60, deviation: 60 },
  { weight: 2, deviation: 5 }, // each further process
  { weight: 0.05, deviation: 0.4 }, // each MB: looked at where the kernel does not tell what was written
  { weight: 1, deviation: 1 }, // each MB that has changed
];
/** From the last byte to the first instruction, the switch included. */
const ARRIVAL_PRIOR: Prior = [
  { weight: 55, deviation: 60 },
  { weight: 2, deviation: 6 },
  { weight: 0.02, deviation: 0.05 }, // each MB that is filled in later
  { weight: 0.9, deviation: 0.6 }, // each MB that is put in place first
];
/** A round over memory that has not changed. */
const SCAN_PRIOR: Prior = [
  { weight: 5, deviation: 20 },
  { weight: 0.15, deviation: 0.2 }, // each MB
];
/** What a move takes before its first byte and after its last. */
const OVERHEAD_PRIOR: Prior = [{ weight: 700, deviation: 500 }];

/** Memory through hashing, compression and one NATS server, before anything was measured. */
const UNMEASURED_BYTES_PER_SECOND = 200e6;
/** How much of a link's rate the newest measurement is. */
const NEWEST = 0.3;
const MAX_PEERS = 256;

export interface MoveCosts {
  readonly departure: LearnedCost;
  readonly arrival: LearnedCost;
  readonly scan: LearnedCost;
  readonly overhead: LearnedCost;
  /** Memory copied to each peer, in bytes a second before compression; the least recently used first. */
  readonly peers: readonly (readonly [node: string, bytesPerSecond: number])[];
}

export const startingCosts = (): MoveCosts => ({
  departure: firstGuess(DEPARTURE_PRIOR),
  arrival: firstGuess(ARRIVAL_PRIOR),
  scan: firstGuess(SCAN_PRIOR),
  overhead: firstGuess(OVERHEAD_PRIOR),
  peers: [],
});

const departureMeasures = ({ memoryBytes, processes }: MoveSize, changedBytes: number): number[] => [
  1,
  Math.max(0, processes - 1),
  memoryBytes / MEGABYTE,
  changedBytes / MEGABYTE,
];
const arrivalMeasures = (size: MoveSize): number[] => {
  const megabytes = size.memoryBytes / MEGABYTE;
  return [
    1,
    Math.max(0, size.processes - 1),
    isFilledLater(size) ? megabytes : 0,
    isFilledLater(size) ? 0 : megabytes,
  ];
};

/** Freeze to the last byte's acknowledgement, over a link that takes memory at this rate. */
export const departureMs = (
  costs: MoveCosts,
  size: MoveSize,
  changedBytes: number,
  bytesPerSecond: number,
): number =>
  expectedCost(costs.departure, departureMeasures(size, changedBytes)) +
  (changedBytes / bytesPerSecond) * 1000;

export const arrivalMs = (costs: MoveCosts, size: MoveSize): number =>
  expectedCost(costs.arrival, arrivalMeasures(size));

export const scanMs = (costs: MoveCosts, memoryBytes: number): number =>
  expectedCost(costs.scan, [1, memoryBytes / MEGABYTE]);

export const overheadMs = (costs: MoveCosts): number => expectedCost(costs.overhead, [1]);

export const bytesPerSecondTo = (costs: MoveCosts, peer: string): number | undefined =>
  costs.peers.find(([node]) => node === peer)?.[1];

/** Without a measurement: what a probe of the link found, as far as this host keeps up with it. */
export const unmeasuredRate = (probedBytesPerSecond: number | undefined, compressedShare: number): number =>
  Math.min(UNMEASURED_BYTES_PER_SECOND, (probedBytesPerSecond ?? Infinity) / Math.max(0.05, compressedShare));

/** `bandwidth` counts bytes on the wire; 0: no cap. */
export const cappedRate = (bytesPerSecond: number, bandwidth: number, compressedShare: number): number =>
  bandwidth === 0 ? bytesPerSecond : Math.min(bytesPerSecond, bandwidth / Math.max(0.05, compressedShare));

export const learnDeparture = (
  costs: MoveCosts,
  size: MoveSize,
  changedBytes: number,
  bytesPerSecond: number,
  measuredMs: number,
): MoveCosts => ({
  ...costs,
  departure: learn(
    costs.departure,
    departureMeasures(size, changedBytes),
    Math.max(0, measuredMs - (changedBytes / bytesPerSecond) * 1000),
    DEPARTURE_PRIOR,
  ),
});

export const learnArrival = (costs: MoveCosts, size: MoveSize, measuredMs: number): MoveCosts => ({
  ...costs,
  arrival: learn(costs.arrival, arrivalMeasures(size), measuredMs, ARRIVAL_PRIOR),
});

export const learnScan = (costs: MoveCosts, memoryBytes: number, measuredMs: number): MoveCosts => ({
  ...costs,
  scan: learn(costs.scan, [1, memoryBytes / MEGABYTE], Math.max(0, measuredMs), SCAN_PRIOR),
});

export const learnOverhead = (costs: MoveCosts, measuredMs: number): MoveCosts => ({
  ...costs,
  overhead: learn(costs.overhead, [1], Math.max(0, measuredMs), OVERHEAD_PRIOR),
});

export function learnRate(costs: MoveCosts, peer: string, bytesPerSecond: number): MoveCosts {
  if (!Number.isFinite(bytesPerSecond) || bytesPerSecond <= 0) return costs;
  const before = bytesPerSecondTo(costs, peer);
  const smoothed = before === undefined ? bytesPerSecond : before + NEWEST * (bytesPerSecond - before);
  const others = costs.peers.filter(([node]) => node !== peer);
  return { ...costs, peers: [...others, [peer, smoothed] as const].slice(-MAX_PEERS) };
}

export const encodeCosts = (costs: MoveCosts): string => JSON.stringify(costs);

/** What is not understood (of another version, or damaged) is learnt again. */
export function decodeCosts(text: string): MoveCosts {
  let parsed: Partial<Record<keyof MoveCosts, unknown>>;
  try {
    parsed = (JSON.parse(text) ?? {}) as typeof parsed;
  } catch {
    return startingCosts();
  }
  const kept = (key: "departure" | "arrival" | "scan" | "overhead", prior: Prior): LearnedCost => {
    const value = parsed[key];
    return isLearnedCost(value, prior) ? value : firstGuess(prior);
  };
  const peers = Array.isArray(parsed.peers) ? (parsed.peers as unknown[]) : [];
  return {
    departure: kept("departure", DEPARTURE_PRIOR),
    arrival: kept("arrival", ARRIVAL_PRIOR),
    scan: kept("scan", SCAN_PRIOR),
    overhead: kept("overhead", OVERHEAD_PRIOR),
    peers: peers.filter(isPeer).slice(-MAX_PEERS),
  };
}

const isPeer = (value: unknown): value is readonly [string, number] =>
  Array.isArray(value) &&
  typeof value[0] === "string" &&
  Number.isFinite(value[1]) &&
  (value[1] as number) > 0;
