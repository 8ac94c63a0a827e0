import { readFileSync, renameSync, writeFileSync } from "node:fs";

import type { Logger } from "pino";

import { decodeCosts, encodeCosts, type MoveCosts, startingCosts } from "../model/move-costs.ts";

const PROBE_HOLDS_MS = 600_000;

/** What this host has learnt of the cost of moves, kept in a file. A host that loses it learns anew. */
export class CostBook {
  readonly #path: string;
  readonly #logger: Logger;
  readonly #probes = new Map<string, { readonly bytesPerSecond: number; readonly atMs: number }>();
  #costs: MoveCosts;

  private constructor(path: string, logger: Logger, costs: MoveCosts) {
    this.#path = path;
    this.#logger = logger;
    this.#costs = costs;
  }

  static open(path: string, logger: Logger): CostBook {
    try {
      return new CostBook(path, logger, decodeCosts(readFileSync(path, "utf8")));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT")
        logger.warn({ err: error, path }, "what was learnt of earlier moves cannot be read");
      return new CostBook(path, logger, startingCosts());
    }
  }

  /** Takes a probe of the link to a peer in; answers the fastest of late, for other work only makes one slower. */
  probed(peer: string, bytesPerSecond: number): number {
    const nowMs = performance.now();
    const before = this.#probes.get(peer);
    if (
      before !== undefined &&
      before.bytesPerSecond >= bytesPerSecond &&
      nowMs - before.atMs < PROBE_HOLDS_MS
    )
      return before.bytesPerSecond;
    this.#probes.set(peer, { bytesPerSecond, atMs: nowMs });
    return bytesPerSecond;
  }

  get costs(): MoveCosts {
    return this.#costs;
  }

  learn(change: (costs: MoveCosts) => MoveCosts): void {
    this.#costs = change(this.#costs);
    try {
      writeFileSync(`${this.#path}.new`, encodeCosts(this.#costs), { mode: 0o600 });
      renameSync(`${this.#path}.new`, this.#path);
    } catch (error) {
      this.#logger.warn(
        { err: error, path: this.#path },
        "what was learnt of a move could not be written down",
      );
    }
  }
}
