import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { chooseForm, COMPRESSED_FORMS, type Form, type Outlook } from "./form-choice.ts";

const MB = 1e6;
/** Of a rate in MB/s. */
const ms = (megabytesPerSecond: number): number => 1000 / (megabytesPerSecond * MB);

const costs = (light: number, dense: number, denser: number): Outlook["costs"] => ({
  light: { msPerByte: ms(600), ratio: light },
  dense: { msPerByte: ms(300), ratio: dense },
  denser: { msPerByte: ms(250), ratio: denser },
});

const outlook = (rest: Partial<Outlook>): Outlook => ({
  bytes: 262_144,
  costs: costs(0.45, 0.36, 0.36),
  linkMsPerByte: ms(100),
  backlogBytes: 0,
  threads: 1,
  before: "stored",
  urgent: false,
  ...rest,
});

describe("the form of a chunk", () => {
  test.each<[string, Partial<Outlook>, Form]>([
    ["a link of 10 MB/s", { linkMsPerByte: ms(10) }, "dense"],
    ["a link of 100 MB/s", { linkMsPerByte: ms(100) }, "dense"],
    ["a link of 400 MB/s", { linkMsPerByte: ms(400) }, "dense"],
    ["a link of 700 MB/s", { linkMsPerByte: ms(700) }, "light"],
    ["a link of 10 GB/s", { linkMsPerByte: ms(10_000) }, "stored"],
    ["a link of 1 GB/s that has much to do", { linkMsPerByte: ms(1_000), backlogBytes: 4 * MB }, "dense"],
    ["data that a higher level makes much of", { costs: costs(0.45, 0.36, 0.3) }, "denser"],
    ["data that a lower level makes most of", { costs: costs(0.02, 0.06, 0.03) }, "light"],
    ["a link of 1 GB/s", { linkMsPerByte: ms(1_000) }, "stored"],
    ["the same, and several cores", { linkMsPerByte: ms(1_000), threads: 3 }, "dense"],
    ["a link of which nothing is known", { linkMsPerByte: undefined }, "dense"],
    ["the same, and the container stands still", { linkMsPerByte: undefined, urgent: true }, "stored"],
    [
      "a small rest on an idle link, and the container stands still",
      { linkMsPerByte: ms(400), bytes: 20_000, urgent: true },
      "stored",
    ],
    ["the same on a slow link", { linkMsPerByte: ms(20), bytes: 20_000, urgent: true }, "dense"],
    [
      "data that does not shrink, on an idle link",
      {
        costs: costs(1, 1, 1),
      },
      "stored",
    ],
  ])("%s: %#", (_, rest, form) => {
    expect(chooseForm(outlook(rest))).toBe(form);
  });

  const cost = fc.record({
    msPerByte: fc.double({ min: ms(5_000), max: ms(20), noNaN: true }),
    ratio: fc.double({ min: 0.01, max: 1, noNaN: true }),
  });
  const anyOutlook = fc.record({
    bytes: fc.integer({ min: 1, max: 262_144 }),
    costs: fc.record({ light: cost, dense: cost, denser: cost }),
    linkMsPerByte: fc.double({ min: ms(20_000), max: ms(1), noNaN: true }),
    backlogBytes: fc.integer({ min: 0, max: 8 * MB }),
    threads: fc.integer({ min: 1, max: 4 }),
    before: fc.constantFrom<Form>("stored", ...COMPRESSED_FORMS),
    urgent: fc.boolean(),
  });

  test("never makes a chunk much later than it would be without compression, nor at all when time counts", () => {
    fc.assert(
      fc.property(anyOutlook, (one) => {
        const form = chooseForm(one);
        const { msPerByte, ratio } = form === "stored" ? { msPerByte: 0, ratio: 1 } : one.costs[form];
        const backlogMs = one.backlogBytes * one.linkMsPerByte;
        const storedMs = backlogMs + one.bytes * one.linkMsPerByte;
        const compressMs = (one.bytes * msPerByte) / (one.urgent ? 1 : one.threads);
        const chosenMs = Math.max(backlogMs, compressMs) + one.bytes * ratio * one.linkMsPerByte;
        expect(chosenMs).toBeLessThanOrEqual(storedMs * (one.urgent ? 1 : 2) * 1.15 * (1 + 1e-9));
      }),
    );
  });

  test("a choice that was just made is made again", () => {
    fc.assert(
      fc.property(anyOutlook, (one) => {
        const form = chooseForm(one);
        const linkMsPerByte = one.linkMsPerByte * 1.02;
        expect(chooseForm({ ...one, before: form })).toBe(form);
        // And a little noise does not make it swing to and fro.
        const second = chooseForm({ ...one, before: form, linkMsPerByte });
        expect(chooseForm({ ...one, before: second })).toBe(second);
      }),
    );
  });
});
