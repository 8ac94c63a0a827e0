/** Why nothing fits, over any number of nodes: each reason with how many nodes it holds for, most frequent first. */
import type { Obstacle } from "../../state/fit/filter.ts";

export interface ReasonCount {
  /** "lack 512 MiB of memory (n2 has most free: 120 MiB)" */
  readonly reason: string;
  readonly nodes: number;
}

interface Group {
  readonly first: Obstacle;
  nodes: number;
  best: { readonly node: string; readonly amount: number; readonly text: string } | undefined;
  /** Of obstacles that a count says too little of. */
  readonly messages: string[];
}

const MESSAGES_SHOWN = 3;

/** Takes in the obstacles of one node after the other. */
export class ReasonTally {
  readonly #groups = new Map<string, Group>();
  #total = 0;

  add(node: string, obstacles: readonly Obstacle[]): void {
    this.#total += 1;
    for (const obstacle of obstacles) {
      let group = this.#groups.get(obstacle.many);
      if (group === undefined)
        this.#groups.set(
          obstacle.many,
          (group = { first: obstacle, nodes: 0, best: undefined, messages: [] }),
        );
      group.nodes += 1;
      const { free } = obstacle;
      if (free !== undefined && (group.best === undefined || free.amount > group.best.amount))
        group.best = { node, ...free };
      if (obstacle.particular === true) group.messages.push(obstacle.message);
    }
  }

  #ordered(): Group[] {
    return [...this.#groups.values()].toSorted(
      (a, b) => b.nodes - a.nodes || (a.first.many < b.first.many ? -1 : 1),
    );
  }

  reasons(): ReasonCount[] {
    return this.#ordered().map((group) => ({ reason: reasonOf(group), nodes: group.nodes }));
  }

  /** "2 of 3 cordoned, 1 of 3 lacks 512 MiB of memory (has 120 MiB free)" */
  summary(): string {
    return this.#ordered()
      .map((group) =>
        group.messages.length > 0 ? reasonOf(group) : `${group.nodes} of ${this.#total} ${reasonOf(group)}`,
      )
      .join(", ");
  }
}

const reasonOf = ({ best, first, messages, nodes }: Group): string => {
  if (messages.length > 0) {
    const shown = messages.slice(0, MESSAGES_SHOWN).join("; ");
    const more = messages.length - MESSAGES_SHOWN;
    return more > 0 ? `${shown}; and ${more} more like these` : shown;
  }
  const words = nodes === 1 ? first.one : first.many;
  if (best === undefined) return words;
  return nodes === 1
    ? `${words} (has ${best.text} free)`
    : `${words} (${best.node} has most free: ${best.text})`;
};
