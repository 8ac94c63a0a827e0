/** From single checks to a container's health. Pure. */
import { HealthState, type HealthCheck } from "../../proto/gen/godwit/v1/spec.ts";

const INTERVAL_MS = 10_000;
const TIMEOUT_MS = 5_000;
const RETRIES = 3;
/** While it starts, a success is looked for this often: whoever waits for it need not wait for the interval. */
const STARTING_INTERVAL_MS = 1_000;
const FIRST_AFTER_MS = 500;

export interface HealthTerms {
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly retries: number;
  readonly startPeriodMs: number;
}

/** With the defaults filled in. */
export const termsOf = (check: HealthCheck): HealthTerms => ({
  intervalMs: check.intervalMs || INTERVAL_MS,
  timeoutMs: check.timeoutMs || TIMEOUT_MS,
  retries: check.retries || RETRIES,
  startPeriodMs: check.startPeriodMs,
});

export interface HealthTally {
  readonly state: HealthState;
  /** In a row. */
  readonly failures: number;
}

/** Of a container that runs. What came from another host, or from an earlier agent, goes on as it was. */
export const tallyFrom = (state: HealthState): HealthTally => ({
  state: state === HealthState.UNSPECIFIED ? HealthState.STARTING : state,
  failures: 0,
});

/** A failure counts unless the container is still given time to start. */
export const afterCheck = (
  tally: HealthTally,
  succeeded: boolean,
  ranMs: number,
  terms: HealthTerms,
): HealthTally => {
  if (succeeded) return { state: HealthState.HEALTHY, failures: 0 };
  if (tally.state === HealthState.STARTING && ranMs < terms.startPeriodMs) return tally;
  const failures = tally.failures + 1;
  return { state: failures >= terms.retries ? HealthState.UNHEALTHY : tally.state, failures };
};

/** @param isFirst no check has been made since the container runs here */
export const nextCheckInMs = (
  tally: HealthTally,
  ranMs: number,
  terms: HealthTerms,
  isFirst: boolean,
): number => {
  if (isFirst && tally.state === HealthState.STARTING) return Math.min(FIRST_AFTER_MS, terms.intervalMs);
  const isQuick = tally.state === HealthState.STARTING && ranMs < terms.startPeriodMs;
  return isQuick ? Math.min(STARTING_INTERVAL_MS, terms.intervalMs) : terms.intervalMs;
};
