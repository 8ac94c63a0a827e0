import { expect, test } from "vitest";

import { decodeWanted, encodeWanted } from "./wanted-pages.ts";

const RUNS = [
  { address: 0x7f00_0000_0000, pages: 1 },
  { address: 4096, pages: 70_000 },
];

test("a wish for pages is what it was", () => {
  expect(decodeWanted(encodeWanted(RUNS))).toEqual(RUNS);
  expect(decodeWanted(encodeWanted([]))).toEqual([]);
});

test.each([
  ["that is cut short", encodeWanted(RUNS).subarray(0, 20)],
  ["within a page", encodeWanted([{ address: 5, pages: 1 }])],
  ["for nothing", encodeWanted([{ address: 4096, pages: 0 }])],
  ["beyond all addresses", encodeWanted([{ address: 4096, pages: 2 ** 52 }])],
])("a wish %s is refused", (_, body) => {
  expect(() => decodeWanted(body)).toThrow(/wish/);
});
