import { type Pages, union, without } from "../checkpoint/page-runs.ts";
import { PageIndex, type RoundIndex } from "./page-index.ts";

/** The last round of one address space: it also says what is there no more. */
export interface LastIndex extends RoundIndex {
  readonly gone: readonly Pages[];
}

/** What has come of one address space. */
export interface SpaceIndex {
  /** The first one first. */
  readonly rounds: RoundIndex[];
  readonly index: PageIndex;
  /** All that has ever come, by rising address. */
  known: readonly Pages[];
}

/**
 * What a received image has of each address space, taken in round by round: so that when the last one comes, of a
 * container that stands still, only that is left to be done. Pure.
 */
export class ImageIndex {
  readonly #spaces = new Map<string, SpaceIndex>();

  get spaces(): ReadonlyMap<string, SpaceIndex> {
    return this.#spaces;
  }

  /** A round that has ended, which was not the last. */
  add(space: string, round: RoundIndex): void {
    const of = this.#of(space);
    of.rounds.push(round);
    of.index.add(round);
    of.known = union(of.known, round.runs);
  }

  /** The last round has ended. Answers all pages that there are, by rising address. */
  end(space: string, last: LastIndex): readonly Pages[] {
    const of = this.#of(space);
    of.index.add(last);
    return union(without(of.known, last.gone), last.runs);
  }

  #of(space: string): SpaceIndex {
    let of = this.#spaces.get(space);
    if (of === undefined) this.#spaces.set(space, (of = { rounds: [], index: new PageIndex(), known: [] }));
    return of;
  }
}
