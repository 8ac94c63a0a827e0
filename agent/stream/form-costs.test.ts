import { expect, test } from "vitest";

import { FormBook } from "./form-costs.ts";

const BYTES = 262_144;

test("the first measurement of a form says what it makes of the data, later ones say how that changes", () => {
  const book = new FormBook();
  book.measured("dense", BYTES, BYTES / 10, 0.5);
  expect(book.costs.dense.ratio).toBeCloseTo(0.1);
  for (let turn = 0; turn < 30; turn += 1) book.measured("dense", BYTES, BYTES / 2, 1);
  expect(book.costs.dense.ratio).toBeCloseTo(0.5, 2);
  expect(book.costs.dense.msPerByte * BYTES).toBeCloseTo(1, 1);
});

test("a measurement that was interrupted changes little, nor does one of a few bytes", () => {
  const book = new FormBook();
  for (let turn = 0; turn < 30; turn += 1) book.measured("dense", BYTES, BYTES / 2, 0.5);
  const { msPerByte, ratio } = book.costs.dense;
  book.measured("dense", BYTES, BYTES / 2, 500);
  expect(book.costs.dense.msPerByte).toBeLessThan(msPerByte * 1.3);
  book.measured("dense", 100, 100, 0.01);
  expect(book.costs.dense.ratio).toBeCloseTo(ratio, 3);
});

test("forms that are not in use are tried in turns, the one in use is not", () => {
  const book = new FormBook();
  const tried: string[] = [];
  for (let nowMs = 0; nowMs < 1_000; nowMs += 1) {
    book.measured("dense", BYTES, BYTES / 5, 0.5);
    const form = book.trial(BYTES, nowMs);
    if (form === undefined) continue;
    tried.push(form);
    book.measured(form, BYTES, BYTES / 4, 0.5);
  }
  expect(tried.slice(0, 4)).toEqual(["light", "denser", "light", "denser"]);
});

test("one in use that is not timed is tried like the others", () => {
  const book = new FormBook();
  const tried = new Set<string>();
  for (let nowMs = 0; nowMs < 1_000; nowMs += 1) {
    book.measured("dense", BYTES, BYTES / 5, undefined);
    const form = book.trial(BYTES, nowMs);
    if (form === undefined) continue;
    tried.add(form);
    book.measured(form, BYTES, BYTES / 4, 0.5);
  }
  expect([...tried].sort()).toEqual(["dense", "denser", "light"]);
});

test("trials take a thirtieth of the time, whether chunks come quickly or slowly, and tiny ones are not tried", () => {
  for (const chunkMs of [0.2, 5, 100]) {
    const book = new FormBook();
    let spentMs = 0;
    let count = 0;
    for (let nowMs = 0; nowMs < 10_000; nowMs += chunkMs) {
      const form = book.trial(BYTES, nowMs);
      if (form === undefined) continue;
      book.measured(form, BYTES, BYTES, 1.5);
      spentMs += 1.5;
      count += 1;
    }
    expect(count).toBeGreaterThan(50);
    expect(spentMs).toBeLessThan(10_000 / 30);
  }
  expect(new FormBook().trial(1_000, 1e9)).toBeUndefined();
});
