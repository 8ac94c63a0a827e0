/** How the times of a lease hang together. */

/**
 * From the end of a lease until its host's containers stand still for certain: clocks that run unlike, a fence that had
 * to be started again, tasks that take their time to stop.
 */
export const fenceMarginMs = (leaseMs: number): number =>
  Math.min(5_000, Math.max(1_000, Math.ceil(leaseMs / 3)));

const REPORT_EVERY_MS = 1_000;
/** Of all nodes together. Each costs the leader some 200 µs, most of it for the use of twenty containers (measured at 1,000 nodes). */
const REPORTS_PER_SECOND = 1_000;
/** A node that has nothing to say reports as often as a leader can listen to all, and three times in its lease. */
export const reportIntervalMs = (nodes: number, leaseMs: number): number =>
  Math.round(Math.max(REPORT_EVERY_MS, Math.min((1_000 * nodes) / REPORTS_PER_SECOND, leaseMs / 3)));

/** Of what a node may say about its fence. */
export const LONGEST_FENCE_MS = 3_600_000;
