import { expect, test } from "vitest";
import { isWithin, parseWindow } from "./maintenance-window.ts";

const at = (text: string): number => Date.parse(`${text}Z`);

// 2026-01-05 is a Monday.
test.each([
  ["Mon-Fri 22:00-06:00", "2026-01-05T21:59", false],
  ["Mon-Fri 22:00-06:00", "2026-01-05T22:00", true],
  ["Mon-Fri 22:00-06:00", "2026-01-06T05:59", true],
  ["Mon-Fri 22:00-06:00", "2026-01-06T06:00", false],
  // It belongs to the day on which it begins.
  ["Mon-Fri 22:00-06:00", "2026-01-05T03:00", false],
  ["Mon-Fri 22:00-06:00", "2026-01-10T03:00", true],
  ["Mon-Fri 22:00-06:00", "2026-01-10T23:00", false],
  ["Sat,Sun 00:00-24:00", "2026-01-11T23:59", true],
  ["Sat,Sun 00:00-24:00", "2026-01-12T00:00", false],
  ["Fri-Mon 08:00-09:00", "2026-01-11T08:30", true],
  ["Fri-Mon 08:00-09:00", "2026-01-07T08:30", false],
  ["02:00-04:30", "2026-01-07T04:29", true],
  ["daily 02:00-04:30", "2026-01-07T04:30", false],
  ["12:00-12:00", "2026-01-07T03:00", true],
])("%s at %s: %s", (window, time, open) => {
  expect(isWithin([window], at(time))).toBe(open);
  expect(isWithin(["nonsense", window], at(time))).toBe(open);
});

test("no window at all is always open, and what is none is said to be none", () => {
  expect(isWithin([], 0)).toBe(true);
  for (const wrong of [
    "",
    "Mon",
    "Mon 22-06",
    "Mo 22:00-06:00",
    "Mon 25:00-26:00",
    "Mon 24:00-06:00",
    "Mon 10:60-11:00",
  ])
    expect(parseWindow(wrong)).toBeUndefined();
});
