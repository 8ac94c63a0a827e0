/** How many moves go on at a time from one node to another, and into one node. Pure. */
import type { Cluster } from "../state/cluster.ts";

/** Into one node, wherever from: each copies memory in and restores there. */
export const MOVES_PER_TARGET = 4;
/** Between any two nodes, unless a drain says otherwise: more of them share one link. */
export const MOVES_PER_LINK = 2;

/** All moves that are under way, whoever began them, and those planned in this round. */
export class MoveLimits {
  readonly #toTarget = new Map<string, number>();
  readonly #onLink = new Map<string, number>();

  constructor({ index, state }: Cluster) {
    for (const id of index.moving) {
      const migration = state.migrations[id];
      if (migration !== undefined) this.add(migration.from, migration.to);
    }
  }

  admits(from: string, to: string, perLink: number): boolean {
    return (
      (this.#toTarget.get(to) ?? 0) < MOVES_PER_TARGET &&
      (this.#onLink.get(linkOf(from, to)) ?? 0) < (perLink || MOVES_PER_LINK)
    );
  }

  add(from: string, to: string): void {
    this.#toTarget.set(to, (this.#toTarget.get(to) ?? 0) + 1);
    const link = linkOf(from, to);
    this.#onLink.set(link, (this.#onLink.get(link) ?? 0) + 1);
  }
}

const linkOf = (from: string, to: string): string => `${from} ${to}`;
