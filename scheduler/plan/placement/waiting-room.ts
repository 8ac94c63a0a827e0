/**
 * Containers that no node had room for, by what they ask for: what one of them does not get, none of its kind gets. The
 * leader's own memory, and no part of the log: a new leader asks all nodes for all of them once.
 */
import type { Container } from "../../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "../../state/cluster.ts";
import { priorityOf } from "../../state/placement-index.ts";

/** How often the reason of those that wait is told anew at most. */
export const TELL_AGAIN_MS = 5_000;
/** And of how many of a kind; the others keep theirs. */
export const TOLD_AGAIN = 16;

export interface Kind {
  readonly key: string;
  readonly priority: number;
  /** Something elsewhere may open a node to it: affinity, or the spread of its service. */
  readonly hasAffinity: boolean;
  /** In the order in which they are placed: oldest first. */
  readonly waiting: Set<string>;
  /** Of these the log may not know yet why they wait; with what it was sent last, or nothing. */
  readonly untold: Map<string, string>;
  /** Something has changed since the reason was told. */
  stale: boolean;
  toldAtMs: number;
  /** No room is made by preemption before. */
  preemptAtMs: number;
  /** The node to begin with in looking for room that could be made. */
  preemptFrom: number;
}

/** A pin is for the first placement; where that node is no more, any will do. */
export const pinOf = ({ allocation, releasedEpoch, spec }: Container): string | undefined =>
  allocation === undefined && releasedEpoch === 0 && spec?.node ? spec.node : undefined;

const keyOf = (container: Container, withLabels: boolean): string => {
  const { spec } = container;
  return JSON.stringify([
    spec?.limits,
    pinOf(container),
    spec?.constraints,
    spec?.affinity,
    spec?.antiAffinity,
    spec?.ports,
    withLabels ? spec?.labels : undefined,
    spec?.affinity.length === 0 ? undefined : spec?.labels,
    spec?.imageDigest,
    spec?.priority,
    // Its service may have rules about where its containers lie.
    container.service,
  ]);
};

export class WaitingRoom {
  readonly #kinds = new Map<string, Kind>();
  readonly #kindOf = new Map<string, Kind>();
  /** Of the last round: where containers were to go. Those that did not get there have kept room from others. */
  readonly planned = new Map<string, string>();
  /** All that wait are asked about anew. */
  #isNew = true;
  /** Somebody must not be beside some label, so labels make a difference. */
  #withLabels = false;

  /** Containers to be tried that are not known to wait, and nodes that have changed. Empties the cluster's news. */
  takeNews(cluster: Cluster): { fresh: string[]; freed: ReadonlySet<string>; gained: ReadonlySet<string> } {
    const { index, news } = cluster;
    if (index.placement.repelling.size > 0 !== this.#withLabels) {
      this.#withLabels = !this.#withLabels;
      this.#isNew = true;
    }
    const freed = new Set(news.freed);
    const gained = new Set(news.gained);
    const seeking = new Set(this.#isNew ? index.unplaced : news.seeking);
    this.#isNew = false;
    for (const [id, node] of this.planned)
      if (index.unplaced.has(id)) {
        seeking.add(id);
        freed.add(node);
      }
    this.planned.clear();
    news.freed.clear();
    news.gained.clear();
    news.seeking.clear();
    // One that is told to seek again may have become another kind of container.
    for (const id of seeking) this.forget(id);
    return { fresh: [...seeking], freed, gained };
  }

  get kinds(): Iterable<Kind> {
    return this.#kinds.values();
  }

  /** The kind that the container would wait with, if any of it waits. */
  waitingLike(container: Container): Kind | undefined {
    return this.#kinds.size === 0 ? undefined : this.#kinds.get(keyOf(container, this.#withLabels));
  }

  wait(container: Container): Kind {
    const key = keyOf(container, this.#withLabels);
    let kind = this.#kinds.get(key);
    if (kind === undefined) {
      kind = {
        key,
        priority: priorityOf(container),
        hasAffinity: (container.spec?.affinity.length ?? 0) > 0 || container.service !== "",
        waiting: new Set(),
        untold: new Map(),
        stale: false,
        toldAtMs: -Infinity,
        preemptAtMs: -Infinity,
        preemptFrom: 0,
      };
      this.#kinds.set(key, kind);
    }
    kind.waiting.add(container.id);
    kind.untold.set(container.id, "");
    this.#kindOf.set(container.id, kind);
    return kind;
  }

  forget(id: string): void {
    const kind = this.#kindOf.get(id);
    if (kind === undefined) return;
    this.#kindOf.delete(id);
    kind.waiting.delete(id);
    kind.untold.delete(id);
    if (kind.waiting.size === 0) this.#kinds.delete(kind.key);
  }
}
