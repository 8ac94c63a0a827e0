/** What a move will cost, from what moves have cost. Pure. */
import { MigrationState, type Migration } from "../../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "../../state/cluster.ts";

/** Of a small container that pre-copy moves, and what each GB adds. */
const TYPICAL_BLACKOUT_MS = 120;
const BLACKOUT_MS_PER_GB = 60;
const TYPICAL_TOTAL_MS = 1_500;
const TOTAL_MS_PER_GB = 8_000;
const GB = 1e9;
/** Newest moves that are looked at, of one container and of all. */
const OWN_MOVES = 5;
const LATEST_MOVES = 50;
/** Moves of others say how fast these hosts are, but within reason. */
const MAX_FACTOR = 10;

/** CPU of each host while it moves a container, and for each GB that goes over. */
const CORES_WHILE_MOVING = 0.25;
const CORE_SECONDS_PER_GB = 1;
/** What the blackout costs those who wait for an answer, beside the container's own work that is not done. */
const CORES_OF_CLIENTS = 1;
/** What work costs on a host that does nothing else. */
const IDLE_SHARE = 0.5;

export interface MoveCost {
  readonly blackoutMs: number;
  readonly totalMs: number;
  readonly sentBytes: number;
}

const median = (values: number[]): number | undefined => values.sort((a, b) => a - b)[values.length >> 1];

const typical = (memoryBytes: number): MoveCost => ({
  blackoutMs: TYPICAL_BLACKOUT_MS + (BLACKOUT_MS_PER_GB * memoryBytes) / GB,
  totalMs: TYPICAL_TOTAL_MS + (TOTAL_MS_PER_GB * memoryBytes) / GB,
  sentBytes: memoryBytes,
});

/** Finished moves of the log, newest last. */
export class MoveHistory {
  readonly #own = new Map<string, Migration[]>();
  readonly #factors: Readonly<Record<keyof MoveCost, number>>;

  constructor({ index, state }: Cluster) {
    const latest: Migration[] = [];
    for (const id of index.ended) {
      const migration = state.migrations[id];
      if (migration?.state !== MigrationState.FINISHED || (migration.figures?.blackoutMs ?? 0) === 0)
        continue;
      const own = this.#own.get(migration.containerId);
      if (own === undefined) this.#own.set(migration.containerId, [migration]);
      else own.push(migration);
      latest.push(migration);
    }
    const recent = latest.slice(-LATEST_MOVES);
    const factor = (kind: keyof MoveCost): number => {
      const ratios = recent.map(
        ({ figures }) => (figures?.[kind] ?? 0) / typical(figures?.memoryBytes ?? 0)[kind],
      );
      const middle = median(ratios.filter((ratio) => ratio > 0 && Number.isFinite(ratio))) ?? 1;
      return Math.min(MAX_FACTOR, Math.max(1 / MAX_FACTOR, middle));
    };
    this.#factors = {
      blackoutMs: factor("blackoutMs"),
      totalMs: factor("totalMs"),
      sentBytes: factor("sentBytes"),
    };
  }

  of(containerId: string): readonly Migration[] {
    return this.#own.get(containerId) ?? [];
  }

  /** From the container's own moves, else from its size and what moves of others came to. */
  expect(containerId: string, memoryBytes: number): MoveCost {
    const size = typical(memoryBytes);
    const own = this.of(containerId).slice(-OWN_MOVES);
    const cost = (kind: keyof MoveCost): number => {
      // What a move of another size of it took says as much as the typical figures grow from there to here.
      const mine = own.map(({ figures }) => {
        const then = typical(figures?.memoryBytes ?? memoryBytes)[kind];
        return ((figures?.[kind] ?? 0) * size[kind]) / Math.max(1, then);
      });
      return median(mine) ?? size[kind] * this.#factors[kind];
    };
    return { blackoutMs: cost("blackoutMs"), totalMs: cost("totalMs"), sentBytes: cost("sentBytes") };
  }

  /** The mean time between its moves; undefined: it was not moved twice. */
  stayMs(containerId: string): number | undefined {
    const own = this.of(containerId);
    const [first, last] = [own[0], own.at(-1)];
    if (first === undefined || last === undefined || own.length < 2) return undefined;
    return (last.switchedAtMs - first.switchedAtMs) / (own.length - 1);
  }
}

/** In seconds of one core: of its own, of its clients, and of both hosts, whose time is dearer the less they have left. */
export const coreSecondsOf = (
  cost: MoveCost,
  cpuMillis: number,
  strains: readonly [from: number, to: number],
): number => {
  const host = (CORES_WHILE_MOVING * cost.totalMs) / 1_000 + (CORE_SECONDS_PER_GB * cost.sentBytes) / GB;
  const hosts = strains.reduce((sum, strain) => sum + host * (IDLE_SHARE + strain), 0);
  return (cost.blackoutMs / 1_000) * (cpuMillis / 1_000 + CORES_OF_CLIENTS) + hosts;
};
