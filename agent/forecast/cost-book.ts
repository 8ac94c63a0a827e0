import { readFileSync, renameSync, writeFileSync } from "node:fs";

import type { Logger } from "pino";

import { decodeCosts, encodeCosts, type MoveCosts, startingCosts } from "../model/move-costs.ts";

/** What this host has learnt of the cost of moves, kept in a file. A host that loses it learns anew. */
export class CostBook {
  readonly #path: string;
  readonly #logger: Logger;
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
