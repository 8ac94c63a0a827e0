import type { Process } from "./world.ts";

export interface WorldEvent {
  atMs: number;
  /** Undefined: it happens whatever becomes of any process. */
  readonly owner: Process | undefined;
  readonly run: () => void;
  cancelled: boolean;
  /** Of two at one moment, the one that was planned first comes first. */
  order: number;
}

const isBefore = (a: WorldEvent, b: WorldEvent): boolean =>
  a.atMs === b.atMs ? a.order < b.order : a.atMs < b.atMs;

/** A binary heap. */
export class EventQueue {
  readonly #heap: WorldEvent[] = [];
  #order = 0;

  push(event: WorldEvent): void {
    event.order = this.#order += 1;
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const other = heap[above];
      if (other === undefined || !isBefore(event, other)) break;
      heap[at] = other;
      at = above;
    }
    heap[at] = event;
  }

  peek(): WorldEvent | undefined {
    return this.#heap[0];
  }

  pop(): WorldEvent | undefined {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (first === undefined || last === undefined || first === last) return first;
    let at = 0;
    for (;;) {
      const left = 2 * at + 1;
      const a = heap[left];
      const b = heap[left + 1];
      const below = b !== undefined && a !== undefined && isBefore(b, a) ? b : a;
      if (below === undefined || !isBefore(below, last)) break;
      heap[at] = below;
      at = below === a ? left : left + 1;
    }
    heap[at] = last;
    return first;
  }
}
