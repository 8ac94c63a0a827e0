import { describe, expect, test } from "vitest";
import {
  formatAge,
  formatBytes,
  formatDuration,
  parseBytes,
  parseCount,
  parseCpuMillis,
  parseDurationMs,
  parseSinceMs,
} from "./quantity.ts";

describe("sizes", () => {
  test.each([
    ["0", 0],
    ["4096", 4096],
    ["256m", 256 * 2 ** 20],
    ["256M", 256 * 2 ** 20],
    ["1g", 2 ** 30],
    ["1.5g", 1.5 * 2 ** 30],
    ["512KiB", 512 * 1024],
    ["10b", 10],
  ])("%s", (text, bytes) => expect(parseBytes(text)).toBe(bytes));
  test.each(["", "m", "-1", "1x", "1e9", "1 2", "99999999999999t"])("%j is none", (text) => {
    expect(() => parseBytes(text)).toThrow("is no size");
  });
  test.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1 KiB"],
    [115 * 2 ** 20, "115 MiB"],
    [1.25 * 2 ** 30, "1.3 GiB"],
  ])("%d reads %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));
});

describe("durations", () => {
  test.each([
    ["300ms", 300],
    ["45s", 45_000],
    ["1.5s", 1_500],
    ["2m", 120_000],
    ["1h30m", 5_400_000],
    ["0s", 0],
  ])("%s", (text, ms) => expect(parseDurationMs(text)).toBe(ms));
  test.each(["", "5", "m", "5 m", "-1s", "1s2", "1y"])("%j is none", (text) => {
    expect(() => parseDurationMs(text)).toThrow("is no duration");
  });
  test.each([
    [0, "0 ms"],
    [3.25, "3.3 ms"],
    [87.4, "87 ms"],
    [1_234, "1.23 s"],
    [59_940, "59.9 s"],
    [252_000, "4m12s"],
    [11_100_000, "3h05m"],
    [187_200_000, "2d04h"],
    [-2_000, "-2 s"],
  ])("%d reads %s", (ms, text) => expect(formatDuration(ms)).toBe(text));
  test("ages", () =>
    expect([0, 90_000, 600_000, 10_000_000, 400_000_000].map(formatAge)).toEqual([
      "0s",
      "90s",
      "10m",
      "2h",
      "4d",
    ]));
});

test("cpus and counts", () => {
  expect(["0.5", "2", "250m", "0"].map(parseCpuMillis)).toEqual([500, 2000, 250, 0]);
  for (const text of ["", "x", "-1", "0.0001"]) expect(() => parseCpuMillis(text)).toThrow("number of cpus");
  expect(parseCount("12", "number of lines")).toBe(12);
  for (const text of ["", "1.5", "-1", "99999999999"])
    expect(() => parseCount(text, "number of lines")).toThrow("no number of lines");
  expect(() => parseCount("0", "number", 1)).toThrow("at least 1");
});

test("times", () => {
  expect(parseSinceMs("2026-01-31T12:00:00Z", 0)).toBe(Date.parse("2026-01-31T12:00:00Z"));
  expect(parseSinceMs("10m", 1_000_000)).toBe(400_000);
  for (const text of ["", "yesterday", "2026-99-99T00:00:00Z"])
    expect(() => parseSinceMs(text, 0)).toThrow("is no time");
});
