import { constants } from "node:os";

import { expect, test } from "vitest";

import { signalNumber } from "./signals.ts";

test("every signal that the system names has its number, with and without SIG", () => {
  // Other names of a signal that has one already.
  const { SIGIOT, SIGPOLL, ...named } = constants.signals as unknown as Record<string, number>;
  expect([SIGIOT, SIGPOLL]).toEqual([signalNumber("ABRT"), signalNumber("IO")]);
  expect(Object.keys(named).length).toBeGreaterThan(25);
  for (const [name, number] of Object.entries(named)) {
    expect([name, signalNumber(name), signalNumber(name.slice(3).toLowerCase())]).toEqual([
      name,
      number,
      number,
    ]);
  }
});

test.each([
  ["2", 2],
  ["64", 64],
  ["SIGRTMIN+3", 37],
  ["RTMAX-1", 63],
  ["SIGRTMAX", 64],
  ["", undefined],
  ["0", undefined],
  ["65", undefined],
  ["-1", undefined],
  ["SIG", undefined],
  ["SIGNOTHING", undefined],
  ["RTMIN-1", undefined],
  ["SIGRTMIN+31", undefined],
])("%j is %s", (text, number) => {
  expect(signalNumber(text)).toBe(number);
});
