/** When a node counts as ready after something was done to it. Pure. */

/** So many looks in a row have to find a lease that was renewed since the look before. */
const LOOKS = 3;
/** An agent renews its lease each second: without a renewal for this long the node is away. */
const AWAY_MS = 5_000;
/** Of the time between two looks, what a renewal has to make good at least. */
const RENEWED_SHARE = 0.5;

export interface Look {
  readonly lost: boolean;
  /** What is left of the node's lease. */
  readonly leaseMs: number;
  readonly atMs: number;
}

/**
 * A node that is about to go down still has a lease, and so does one whose reboot takes less than that: only a lease
 * that is renewed says that its agent is there.
 */
export class ReadyWatch {
  readonly #hasToGo: boolean;
  #before: Look | undefined;
  #renewedAtMs: number | undefined;
  #renewals = 0;
  #wasAway = false;

  /** @param hasToGo it is expected to be away once */
  constructor(hasToGo: boolean) {
    this.#hasToGo = hasToGo;
  }

  get words(): string {
    if (this.#hasToGo && !this.#wasAway) return "it was never away, and was expected to restart";
    return "its agent does not report";
  }

  /** Whether it is ready now. */
  see(look: Look): boolean {
    const before = this.#before;
    this.#before = look;
    this.#renewedAtMs ??= look.atMs;
    const passedMs = look.atMs - (before?.atMs ?? look.atMs);
    const isRenewed =
      !look.lost && before !== undefined && look.leaseMs - before.leaseMs > -passedMs * RENEWED_SHARE;
    if (isRenewed) this.#renewedAtMs = look.atMs;
    this.#renewals = isRenewed ? this.#renewals + 1 : 0;
    if (look.lost || look.atMs - this.#renewedAtMs >= AWAY_MS) this.#wasAway = true;
    return this.#renewals >= LOOKS && (!this.#hasToGo || this.#wasAway);
  }
}
