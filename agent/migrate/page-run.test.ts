import { describe, expect, test } from "vitest";

import { PageLedger } from "./page-ledger.ts";
import { decodePageRun, encodePageRun, pagemapFileOf, type PageRun } from "./page-run.ts";

describe("a run of pages on the wire", () => {
  test.each<[PageRun, number]>([
    [{ address: 0x7ffc_1234_5000, pages: 3, kind: "content" }, 3 * 4096],
    [{ address: 0x1000, pages: 500_000, kind: "gone" }, 0],
    [{ address: 0, pages: 0, kind: "gone" }, 0],
  ])("%j", (run, bodyBytes) => {
    expect(decodePageRun(encodePageRun(run), bodyBytes)).toEqual(run);
  });

  test.each<[string, PageRun, number]>([
    ["less content than announced", { address: 0x1000, pages: 2, kind: "content" }, 4096],
    ["content where none belongs", { address: 0x1000, pages: 2, kind: "gone" }, 8192],
    ["no page boundary", { address: 0x1001, pages: 1, kind: "content" }, 4096],
  ])("refused: %s", (_, run, bodyBytes) => {
    expect(decodePageRun(encodePageRun(run), bodyBytes)).toBeUndefined();
  });

  test.each([
    ["1-17", "pagemap-17.img"],
    ["2-1234567890123", "pagemap-shmem-1234567890123.img"],
    ["1-../../etc/passwd", undefined],
    ["3-1", undefined],
    ["", undefined],
  ])("the address space %j", (space, file) => {
    expect(pagemapFileOf(space)).toBe(file);
  });
});

test("the ledger knows each page's hash, and 0 for pages it was never told of", () => {
  const ledger = new PageLedger();
  ledger.set("1-1", 511, 5n);
  ledger.set("1-1", 512, 6n);
  ledger.set("1-1", 512, 7n);
  expect([
    ledger.get("1-1", 511),
    ledger.get("1-1", 512),
    ledger.get("1-1", 513),
    ledger.get("1-2", 511),
  ]).toEqual([5n, 7n, 0n, 0n]);
  expect(ledger.pages).toBe(2);
});
