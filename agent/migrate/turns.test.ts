import { setTimeout as delay } from "node:timers/promises";

import { expect, test } from "vitest";

import { Turns } from "./turns.ts";

const never = new AbortController().signal;

test.each([1, 3])("%i at a time, in the order in which they ask", async (places) => {
  const turns = new Turns(places);
  const seen: string[] = [];
  let inside = 0;
  let most = 0;
  const work = async (name: string): Promise<void> => {
    using _ = await turns.take(never);
    inside += 1;
    most = Math.max(most, inside);
    seen.push(name);
    await delay(2);
    inside -= 1;
  };
  const names = ["a", "b", "c", "d", "e", "f", "g"];
  await Promise.all(names.map(work));
  expect(seen).toEqual(names);
  expect(most).toBe(places);
});

test("who is first does not wait, who gives up is passed over", async () => {
  const turns = new Turns(1);
  const first = await turns.take(never);
  const stop = new AbortController();
  const second = turns.take(stop.signal);
  const third = turns.take(never);
  stop.abort(new Error("called off"));
  await expect(second).rejects.toThrow("called off");
  expect(await Promise.race([third, delay(5, "still waits")])).toBe("still waits");
  first[Symbol.dispose]();
  (await third)[Symbol.dispose]();
  await expect(turns.take(stop.signal)).rejects.toThrow("called off");
});

test("a turn that is never over holds nobody up for good", async () => {
  const turns = new Turns(1, 10);
  await turns.take(never);
  const second = await turns.take(never);
  expect(second.waitedMs).toBeGreaterThanOrEqual(9);
  second[Symbol.dispose]();
  expect((await turns.take(never)).waitedMs).toBeGreaterThanOrEqual(9);
});

test("whatever asks, gives up and is impatient: no place is lost, and none is taken twice by those with patience", async () => {
  const stops = [0, 1, 2, 3, 5, 8].map((after) => AbortSignal.timeout(after));
  for (let round = 0; round < 20; round += 1) {
    const turns = new Turns(2);
    let inside = 0;
    const work = async (signal: AbortSignal): Promise<void> => {
      using _ = await turns.take(signal);
      inside += 1;
      expect(inside).toBeLessThanOrEqual(2);
      await delay(round % 3);
      inside -= 1;
    };
    const signals = Array.from({ length: 12 }, (_, index) =>
      index % 2 === 0
        ? never
        : AbortSignal.any([stops[index % stops.length] ?? never, AbortSignal.timeout(round % 4)]),
    );
    await Promise.allSettled(signals.map(work));
    // Both places are there.
    expect((await turns.take(never)).waitedMs).toBeLessThan(5);
    expect((await turns.take(AbortSignal.timeout(1_000))).waitedMs).toBeLessThan(5);
  }
});
