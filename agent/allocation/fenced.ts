import { GodwitError } from "../../proto/contract/error.ts";
import type { RecordedContainer } from "./container.ts";
import type { StepInHand } from "./step-in-hand.ts";

export interface Verdicts {
  /** By the orders that the host has now. */
  readonly isOurs: () => boolean;
  /** What is here of the container is to be removed next. */
  readonly isToGo: () => boolean;
}

/** What a container's allocation has to do with its host's fence, which stops all containers when the lease ends. */
export class Fenced {
  readonly #container: RecordedContainer;
  readonly #hand: StepInHand;
  readonly #verdicts: Verdicts;

  constructor(container: RecordedContainer, hand: StepInHand, verdicts: Verdicts) {
    this.#container = container;
    this.#hand = hand;
    this.#verdicts = verdicts;
  }

  /** The fence is about to be lifted: what is somebody else's by now is not to answer to anybody. */
  async unplugUnlessOurs(): Promise<void> {
    const { record, runtime } = this.#container;
    if (this.#verdicts.isOurs() || record === undefined || record.status.kind === "stopped") return;
    try {
      (await runtime.plug(record)).unplug();
    } catch (error) {
      this.#container.logger.info({ err: error }, "the container had no link to take away");
    }
  }

  /** The fence has been lifted. */
  goOn(): void {
    const { status } = this.#container;
    const isUnsent = status?.kind === "running" || (status?.kind === "frozen" && status.sent === "no");
    if (this.#hand.freezes && isUnsent) this.#endCopy();
    // What is frozen for a move is thawed by its step or by nobody.
    else if (this.#verdicts.isOurs() && !this.#hand.freezes && status?.kind !== "frozen")
      this.#container.runtime.cgroup.thaw();
  }

  /** Of a fence that was lifted, or of a thaw, by an agent that died over it. */
  thawIfHeld(): void {
    const { host, runtime, status } = this.#container;
    if (host.fence.isClosed || status?.kind !== "running") return;
    if (this.#verdicts.isOurs() && runtime.cgroup.isFrozen()) runtime.cgroup.thaw();
  }

  /**
   * The lease ended while it was copied. CRIU may have let its tasks go on to stop them one by one, and waits for them:
   * each container was frozen for itself before the host's fence was lifted. From the abort on nobody gets this image.
   */
  #endCopy(): void {
    const { cgroup } = this.#container.runtime;
    this.#hand.abort(new GodwitError("unavailable", "the host's lease ended during the move"));
    if (this.#verdicts.isOurs()) cgroup.thaw();
    else if (this.#verdicts.isToGo())
      cgroup.killAll().catch((error: unknown) => {
        this.#container.logger.error({ err: error }, "what belongs to another host by now cannot be ended");
      });
  }
}
