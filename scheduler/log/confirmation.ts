import type { Machine } from "./machine.ts";

export interface Moment {
  readonly nowMs: number;
  readonly monotonicMs: number;
}

/** When it was last certain that this scheduler leads: nobody can have been elected before that moment. */
export class Confirmation {
  readonly #machine: Machine;
  #last: Moment | undefined;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** To be taken before the log is asked: what it answers was true at that moment, not when the answer came. */
  moment(): Moment {
    return { nowMs: this.#machine.nowMs(), monotonicMs: this.#machine.monotonicMs() };
  }
  note(moment: Moment): void {
    this.#last = moment;
  }

  /**
   * One clock stands still while the machine sleeps, the other one can be set: what either of them takes for old is
   * old, and a clock that went backwards says nothing.
   */
  within(ms: number): boolean {
    if (this.#last === undefined) return false;
    const { nowMs, monotonicMs } = this.moment();
    return [nowMs - this.#last.nowMs, monotonicMs - this.#last.monotonicMs].every(
      (ageMs) => ageMs >= 0 && ageMs <= ms,
    );
  }
}
