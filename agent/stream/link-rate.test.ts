import { expect, test } from "vitest";

import { LinkRate } from "./link-rate.ts";

const CAPACITY = 32;
const CHUNK = 262_144;
const MB = 1e6;

/** A sender of `sendRate` on a link of `linkRate`, both in bytes a second, with a credit for each 8 chunks. */
function run(sendRate: number, linkRate: number, chunks: number): LinkRate {
  const rate = new LinkRate(CAPACITY);
  let sentAtMs = 0;
  let drainedAtMs = 0;
  const acks: number[] = [];
  for (let chunk = 0; chunk < chunks; chunk += 1) {
    sentAtMs += (CHUNK / sendRate) * 1000;
    const oldest = acks[0];
    // A full window: nothing is sent before something was acknowledged.
    if (acks.length * 8 >= CAPACITY && oldest !== undefined) sentAtMs = Math.max(sentAtMs, oldest);
    while (acks[0] !== undefined && acks[0] <= sentAtMs) rate.acknowledged(8, 8 * CHUNK, acks.shift() ?? 0);
    rate.entered(CHUNK, sentAtMs);
    drainedAtMs = Math.max(drainedAtMs, sentAtMs) + (CHUNK / linkRate) * 1000;
    if (chunk % 8 === 7) acks.push(drainedAtMs);
  }
  return rate;
}
const seen = (rate: LinkRate): number => 1000 / (rate.msPerByte ?? Infinity);

test("a link that is slower than the sender is known for what it is", () => {
  const rate = run(500 * MB, 50 * MB, 400);
  expect(seen(rate)).toBeGreaterThan(45 * MB);
  expect(seen(rate)).toBeLessThan(60 * MB);
  expect(rate.backlogBytes).toBeGreaterThan(CAPACITY * CHUNK * 0.7);
});

test("a link that is never full is found to be faster than what was asked of it", () => {
  const rate = run(50 * MB, 5_000 * MB, 400);
  expect(seen(rate)).toBeGreaterThan(900 * MB);
  expect(rate.backlogBytes).toBeLessThanOrEqual(9 * CHUNK);
});

test("nothing is known before the first acknowledgement", () => {
  const rate = new LinkRate(CAPACITY);
  rate.entered(CHUNK, 5);
  expect(rate.msPerByte).toBeUndefined();
  rate.acknowledged(0, 0, 6);
  expect(rate.msPerByte).toBeUndefined();
  rate.acknowledged(1, CHUNK, 7);
  expect(rate.msPerByte).toBeCloseTo(2 / CHUNK, 9);
  expect(rate.backlogBytes).toBe(0);
});

test("a cap is known before the link is", () => {
  const rate = new LinkRate(CAPACITY, 2 * MB);
  for (let turn = 1; turn < 50; turn += 1) {
    rate.entered(CHUNK, turn);
    rate.acknowledged(1, CHUNK, turn + 0.1);
  }
  expect(seen(rate)).toBeCloseTo(2 * MB);
});
