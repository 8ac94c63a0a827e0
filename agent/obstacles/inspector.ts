import { setTimeout as delay } from "node:timers/promises";

import type { Logger } from "pino";

import { type Findings, inspect } from "./inspect.ts";
import type { WatchedPaths } from "./watches.ts";

export interface Inspected {
  readonly id: string;
  /** Undefined: it does not run, or is being moved, so that there is nothing to look at. */
  readonly initPid: number | undefined;
  readonly pids: () => readonly number[];
  readonly watchedPaths: WatchedPaths;
}

/** A container is looked at anew after this. */
const INTERVAL_MS = 12_000;
/** One with an obstacle sooner: an operator who has just removed it waits for that. */
const BLOCKED_INTERVAL_MS = 2_000;
const TICK_MS = 500;
/** Looking takes at most this part of the time, however many containers there are: they are then looked at less often. */
const SHARE = 0.02;

/**
 * Looks at the host's containers in turns, and keeps what it has found: why they cannot be moved, before anyone
 * tries. What is known of a container is dropped when another first process runs.
 */
export class Inspector implements AsyncDisposable {
  readonly #containers: () => Iterable<Inspected>;
  readonly #changed: () => void;
  readonly #logger: Logger;
  readonly #known = new Map<string, { initPid: number; atMs: number; findings: Findings }>();
  readonly #abort = new AbortController();
  #loop: Promise<void> = Promise.resolve();

  constructor(options: {
    readonly containers: () => Iterable<Inspected>;
    /** What is found differs from before. */
    readonly changed: () => void;
    readonly logger: Logger;
  }) {
    this.#containers = options.containers;
    this.#changed = options.changed;
    this.#logger = options.logger;
  }

  start(): void {
    this.#loop = this.#run();
  }

  findings(id: string, initPid: number): Findings | undefined {
    const known = this.#known.get(id);
    return known?.initPid === initPid ? known.findings : undefined;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      const beganMs = performance.now();
      try {
        while (performance.now() - beganMs < TICK_MS * SHARE && (await this.#lookAtOne()));
      } catch (error) {
        this.#logger.error(
          { err: error },
          "containers could not be looked at for what keeps them from moving",
        );
      }
      const pauseMs = Math.max(TICK_MS, (performance.now() - beganMs) / SHARE);
      await delay(pauseMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** The container that has waited longest, if one is due. */
  async #lookAtOne(): Promise<boolean> {
    const nowMs = performance.now();
    const present = new Set<string>();
    let next: (Inspected & { readonly initPid: number }) | undefined;
    let nextOverdueMs = 0;
    for (const container of this.#containers()) {
      const { id, initPid } = container;
      present.add(id);
      if (initPid === undefined) continue;
      const overdueMs = this.#overdueMs(id, initPid, nowMs);
      if (overdueMs <= nextOverdueMs) continue;
      next = { ...container, initPid };
      nextOverdueMs = overdueMs;
    }
    for (const id of this.#known.keys()) if (!present.has(id)) this.#known.delete(id);
    if (next === undefined) return false;
    const { id, initPid, pids, watchedPaths } = next;
    const known = this.#known.get(id);
    const before = known?.initPid === initPid ? known.findings : undefined;
    const findings = await inspect({ initPid, pids: pids(), watchedPaths }, before);
    this.#known.set(id, { initPid, atMs: performance.now(), findings });
    const tookMs = performance.now() - nowMs;
    this.#logger.debug({ container: id, tookMs, partial: findings.partial }, "looked at");
    if (JSON.stringify(findings.blockers) !== JSON.stringify(known?.findings.blockers ?? [])) this.#changed();
    return true;
  }

  #overdueMs(id: string, initPid: number, nowMs: number): number {
    const known = this.#known.get(id);
    if (known?.initPid !== initPid) return Infinity;
    const { blockers, backlog } = known.findings;
    const interval = blockers.length > 0 || backlog.size > 0 ? BLOCKED_INTERVAL_MS : INTERVAL_MS;
    return nowMs - known.atMs - interval;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#loop;
  }
}
