import { expect, test } from "vitest";
import { SlicedWork } from "./sliced-work.ts";

/** A clock that work moves on, and turns of an event loop that a test ends. */
class Turns {
  nowMs = 0;
  #soon: (() => void)[] = [];

  monotonicMs(): number {
    return this.nowMs;
  }
  soon(run: () => void): Disposable {
    this.#soon.push(run);
    return { [Symbol.dispose]: () => void (this.#soon = this.#soon.filter((one) => one !== run)) };
  }
  /** False: nothing was left to do. */
  end(): boolean {
    const all = this.#soon.splice(0);
    for (const run of all) run();
    return all.length > 0;
  }
}

const begin = (eachMs: number): { turns: Turns; done: number[]; work: SlicedWork<number> } => {
  const turns = new Turns();
  const done: number[] = [];
  const work = new SlicedWork<number>(turns, (item) => {
    done.push(item);
    turns.nowMs += eachMs;
  });
  return { turns, done, work };
};

test("what comes one by one is done at once, and nothing is left to be done later", () => {
  const { done, turns, work } = begin(4);
  for (let item = 1; item <= 20; item += 1) {
    expect(work.add(item)).toBe(true);
    expect(done.at(-1)).toBe(item);
    while (turns.end());
  }
});

test("what comes all at once is done in its order, over as many turns as it takes", () => {
  const { done, turns, work } = begin(4);
  const items = Array.from({ length: 10 }, (_, at) => at);
  for (const item of items) work.add(item);
  expect(done).toEqual([0, 1, 2]);
  expect(work.lateMs).toBe(0);
  turns.nowMs += 100;
  expect(work.lateMs).toBe(100);
  turns.end();
  expect(done).toEqual([0, 1, 2, 3, 4, 5]);
  // What comes meanwhile waits behind the others.
  work.add(10);
  expect(done).toEqual([0, 1, 2, 3, 4, 5]);
  let count = 0;
  while (turns.end()) count += 1;
  expect(done).toEqual([...items, 10]);
  expect(count).toBeLessThan(5);
  expect(work.lateMs).toBe(0);
});

test("more than can wait is left, and what is disposed of does nothing any more", () => {
  const { done, turns, work } = begin(100);
  expect(work.add(0)).toBe(true);
  let left = 0;
  for (let item = 1; item <= 20_005; item += 1) if (!work.add(item)) left += 1;
  expect(left).toBe(5);
  work[Symbol.dispose]();
  expect(turns.end()).toBe(false);
  expect(done).toEqual([0]);
});
