import { GodwitError } from "../../proto/contract/error.ts";
import { type DesiredAllocation, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { interruption, type Step } from "../model/next-step.ts";

/** The step that is being taken, and how a change of what is wanted reaches it. */
export class StepInHand {
  #step: Step = { kind: "none" };
  #abort = new AbortController();
  #commit = commitment();

  get step(): Step {
    return this.#step;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** It ends with the container frozen, or goes through that. */
  get freezes(): boolean {
    return this.#step.kind === "copy" || this.#step.kind === "checkpoint";
  }

  begin(step: Step): void {
    this.#step = step;
    this.#abort = new AbortController();
    this.#commit = commitment();
  }

  end(): void {
    this.#step = { kind: "none" };
  }

  follow(desired: DesiredAllocation | undefined): void {
    const word = interruption(this.#step, desired);
    if (word === "commit") this.#commit.resolve();
    if (word === "abort" && !this.#abort.signal.aborted)
      this.giveUp(new GodwitError("cancelled", "the cluster no longer wants this step"));
  }

  /** Before what it waits for has come; that may still come. */
  abort(reason: GodwitError): void {
    this.#abort.abort(reason);
  }

  giveUp(reason: GodwitError): void {
    this.#abort.abort(reason);
    this.#commit.reject(reason);
  }

  /** Resolves when the log has given the container to this host. */
  switched(desired: DesiredAllocation | undefined): Promise<void> {
    if (desired?.role === Role.OWNER && desired.migration?.switched === true) return Promise.resolve();
    return this.#commit.promise;
  }
}

/** Nobody may wait for it when it fails. */
function commitment(): PromiseWithResolvers<void> {
  const made = Promise.withResolvers<void>();
  made.promise.catch(() => undefined);
  return made;
}
