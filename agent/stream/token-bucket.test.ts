import * as fc from "fast-check";
import { expect, test } from "vitest";

import { TokenBucket } from "./token-bucket.ts";

test("a burst passes, then the rate holds", () => {
  const bucket = new TokenBucket(1000, 100);
  expect(bucket.waitMs(0)).toBe(0);
  bucket.spend(600, 0); // 500 beyond what was there
  expect(bucket.waitMs(0)).toBe(500);
  expect(bucket.waitMs(400)).toBe(100);
  expect(bucket.waitMs(501)).toBe(0);
  expect(bucket.waitMs(60_000)).toBe(0);
  bucket.spend(101, 60_000); // a long pause saves up no more than a burst
  expect(bucket.waitMs(60_000)).toBe(1);
});

test("who waits as told never sends more than the rate, a burst and one message", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1_000, max: 1_000_000_000 }),
      fc.array(fc.integer({ min: 1, max: 300_000 }), { minLength: 1, maxLength: 200 }),
      (rate, messages) => {
        const burst = rate / 20;
        const bucket = new TokenBucket(rate, burst);
        let nowMs = 0;
        let sent = 0;
        for (const bytes of messages) {
          for (let wait = bucket.waitMs(nowMs); wait > 0; wait = bucket.waitMs(nowMs)) nowMs += wait;
          expect(sent).toBeLessThanOrEqual((rate * nowMs) / 1000 + burst);
          bucket.spend(bytes, nowMs);
          sent += bytes;
        }
        // And not much less either.
        expect(nowMs).toBeLessThanOrEqual((sent * 1000) / rate + messages.length);
      },
    ),
  );
});
