import { setTimeout as delay } from "node:timers/promises";

import { expect, test } from "vitest";

import { Turns } from "./turns.ts";

const never = new AbortController().signal;

test("one at a time, in the order in which they ask", async () => {
  const turns = new Turns(60_000);
  const seen: string[] = [];
  let inside = 0;
  const work = async (name: string): Promise<void> => {
    using _ = await turns.take(never);
    inside += 1;
    expect(inside).toBe(1);
    seen.push(name);
    await delay(2);
    inside -= 1;
  };
  await Promise.all(["a", "b", "c", "d"].map(work));
  expect(seen).toEqual(["a", "b", "c", "d"]);
});

test("who is first does not wait, who gives up is passed over", async () => {
  const turns = new Turns(60_000);
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
  const turns = new Turns(10);
  await turns.take(never);
  const second = await turns.take(never);
  expect(second.waitedMs).toBeGreaterThanOrEqual(9);
  second[Symbol.dispose]();
  expect((await turns.take(never)).waitedMs).toBeGreaterThanOrEqual(9);
});
