/** How the times of a lease hang together. */

/**
 * From the end of a lease until its host's containers stand still for certain: clocks that run unlike, a fence that had
 * to be started again, tasks that take their time to stop.
 */
export const fenceMarginMs = (leaseMs: number): number =>
  Math.min(5_000, Math.max(1_000, Math.ceil(leaseMs / 3)));

/** Of what a node may say about its fence. */
export const LONGEST_FENCE_MS = 3_600_000;
