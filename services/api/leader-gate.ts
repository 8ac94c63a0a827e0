/** Lets calls in where this scheduler leads, and says where the leader is where it does not. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { Scheduler } from "../../scheduler/mod.ts";

/** How long a call waits for the log to say who leads. */
const CONFIRM_MS = 5_000;

type Asked = Pick<Scheduler, "changes" | "confirm" | "id" | "leads" | "schedulers">;

export class LeaderGate {
  readonly #scheduler: Asked;
  readonly #confirmMs: number;
  /** Until this scheduler leads no more. */
  #term: AbortController | undefined;
  /** Ends with `stopping`. */
  readonly watching: Promise<void>;

  constructor(scheduler: Asked, stopping: AbortSignal, confirmMs = CONFIRM_MS) {
    this.#scheduler = scheduler;
    this.#confirmMs = confirmMs;
    this.watching = this.#watch(stopping);
  }

  /** Aborts when this scheduler leads no more, with the error that says where to go on. */
  get term(): AbortSignal {
    return (this.#term ??= new AbortController()).signal;
  }

  /** Throws where another scheduler leads, as far as this one knows: whatever it then changes, the log has the last word. */
  look(): void {
    if (!this.#scheduler.leads) throw this.#refusal();
  }

  /** Resolves when it is certain that what this scheduler knows was not out of date when the call came. */
  async enter(signal: AbortSignal): Promise<void> {
    this.look();
    const { promise: ended, reject } = Promise.withResolvers<never>();
    const onAbort = (): void => reject(GodwitError.from(signal.reason, "cancelled"));
    const tired = (): void =>
      reject(
        new GodwitError(
          "unavailable",
          `the log does not say within ${this.#confirmMs / 1000} s who leads: check nats-server, and try again`,
        ),
      );
    const timer = setTimeout(tired, this.#confirmMs);
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      await Promise.race([this.#scheduler.confirm(), ended]);
    } catch (error) {
      if (!this.#scheduler.leads) throw this.#refusal();
      throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    }
  }

  async #watch(stopping: AbortSignal): Promise<void> {
    for await (const _ of this.#scheduler.changes(stopping)) {
      if (this.#scheduler.leads || this.#term === undefined) continue;
      this.#term.abort(this.#refusal());
      this.#term = undefined;
    }
  }

  #refusal(): GodwitError {
    const { id } = this.#scheduler;
    const leader = this.#scheduler.schedulers().find((one) => one.role === "leader" && one.id !== id);
    const where =
      leader === undefined || leader.addresses.length === 0 ? "" : ` at ${leader.addresses.join()}`;
    return new GodwitError(
      "unavailable",
      leader === undefined
        ? `the scheduler ${id} stands by and knows of none that leads; try again in a moment`
        : `the scheduler ${id} stands by; ${leader.id} leads${where}`,
      { elsewhere: leader?.addresses ?? [] },
    );
  }
}
