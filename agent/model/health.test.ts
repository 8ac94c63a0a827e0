import { describe, expect, test } from "vitest";

import { HealthCheck, HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { afterCheck, nextCheckInMs, tallyFrom, termsOf, type HealthTally } from "./health.ts";

const terms = termsOf(HealthCheck.fromPartial({ intervalMs: 2_000, retries: 3, startPeriodMs: 10_000 }));
const words: Record<HealthState, string> = {
  [HealthState.UNSPECIFIED]: "-",
  [HealthState.STARTING]: "s",
  [HealthState.HEALTHY]: "h",
  [HealthState.UNHEALTHY]: "u",
};

/** The health after each check, given as "+" and "-", every two seconds. */
const story = (checks: string, from: HealthState = HealthState.UNSPECIFIED, ranMs = 0): string => {
  let tally: HealthTally = tallyFrom(from);
  return checks
    .split("")
    .map((check, at) => {
      tally = afterCheck(tally, check === "+", ranMs + (at + 1) * 2_000, terms);
      return words[tally.state];
    })
    .join("");
};

describe("health from checks", () => {
  test.each([
    ["one success is enough", "+", "h"],
    ["failures in a row make it unhealthy", "+---", "hhhu"],
    ["but not with a success between them", "+--+--+", "hhhhhhh"],
    ["while it is given time to start they do not count", "----", "ssss"],
    ["after that they do", "-------", "ssssssu"],
    ["a success ends the time to start: it has started", "+---", "hhhu"],
    ["one that was unhealthy gets well again", "+---+", "hhhuh"],
  ])("%s", (_, checks, expected) => {
    expect(story(checks)).toBe(expected);
  });

  test("what came from another host goes on as it was, and no time to start is given again", () => {
    expect(story("--", HealthState.HEALTHY)).toBe("hh");
    expect(story("---", HealthState.HEALTHY)).toBe("hhu");
    expect(story("-", HealthState.UNHEALTHY)).toBe("u");
    expect(story("--", HealthState.STARTING)).toBe("ss");
  });
});

test("whoever waits for a start need not wait for the interval", () => {
  const starting = tallyFrom(HealthState.STARTING);
  expect(nextCheckInMs(starting, 0, terms, true)).toBe(500);
  expect(nextCheckInMs(starting, 5_000, terms, false)).toBe(1_000);
  // Failures count now: they come at the pace that was asked for.
  expect(nextCheckInMs(starting, 11_000, terms, false)).toBe(2_000);
  expect(nextCheckInMs(tallyFrom(HealthState.HEALTHY), 0, terms, true)).toBe(2_000);
});
