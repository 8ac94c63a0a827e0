import { GodwitError } from "../../proto/contract/error.ts";
import {
  CheckpointPhase,
  CheckpointReport,
  type CheckpointOrder,
} from "../../proto/gen/godwit/v1/checkpoint.ts";
import {
  type RememberedCheckpoint,
  sendToKeepers,
  takeCheckpoint,
  type TakenCheckpoint,
} from "../checkpoints/take.ts";
import type { RecordedContainer } from "./container.ts";

/** The checkpoint that is being taken of a container: a step takes it, and then it goes to its keepers by itself. */
export class Checkpointing implements Disposable {
  readonly #container: RecordedContainer;
  #report: CheckpointReport | undefined;
  /** What the next one may build upon: the last one that is known to be kept, and the one after it. */
  #remembered: RememberedCheckpoint[] = [];
  #sending = new AbortController();

  constructor(container: RecordedContainer) {
    this.#container = container;
  }

  /** Of the one that has been begun or is over, whatever became of it. */
  get begun(): string | undefined {
    return this.#report?.id;
  }

  get report(): CheckpointReport | undefined {
    return this.#report;
  }

  expect(order: CheckpointOrder | undefined): void {
    if (this.#report === undefined || this.#report.id === order?.id) return;
    this[Symbol.dispose]();
    this.#container.host.checkpoints.removeSpool(this.#report.id);
    this.#report = undefined;
  }

  async take(order: CheckpointOrder, signal: AbortSignal): Promise<void> {
    const { host, logger, runtime } = this.#container;
    this.#tell({ id: order.id, phase: CheckpointPhase.TAKING });
    // What the leader does not name its keepers may not have: it is of no more use.
    const base = this.#remembered.find(({ id }) => id === order.baseId);
    this.#remembered = base === undefined ? [] : [base];
    try {
      if (host.checkpoints.wasCutOff(order.id))
        throw new GodwitError("unavailable", "the agent was restarted while it was being taken");
      const { figures, remembered } = await takeCheckpoint({
        host,
        runtime,
        record: () => this.#container.record,
        order,
        base,
        signal,
        setStatus: (status) =>
          status.kind === "running" ? this.#container.found(status) : this.#container.setStatus(status),
      });
      logger.info({ checkpoint: order.id, ...figures }, "a checkpoint is taken");
      if (remembered !== undefined) this.#remembered.push(remembered);
      this.#sending = new AbortController();
      void this.#send(order, figures, this.#sending.signal);
    } catch (error) {
      logger.warn({ err: error, checkpoint: order.id }, "no checkpoint could be taken");
      this.#tell({ id: order.id, phase: CheckpointPhase.FAILED, error: GodwitError.from(error).message });
    }
  }

  /** Ends what is under way. */
  [Symbol.dispose](): void {
    this.#sending.abort(new GodwitError("cancelled", "the checkpoint is no longer wanted"));
  }

  async #send(order: CheckpointOrder, taken: TakenCheckpoint, signal: AbortSignal): Promise<void> {
    const { host, logger } = this.#container;
    try {
      await sendToKeepers(host, order, signal);
      if (!signal.aborted) this.#tell({ id: order.id, phase: CheckpointPhase.SENT, ...taken });
    } catch (error) {
      if (signal.aborted) return;
      logger.warn({ err: error, checkpoint: order.id }, "a checkpoint could not be sent to its keepers");
      this.#tell({ id: order.id, phase: CheckpointPhase.FAILED, error: GodwitError.from(error).message });
    }
  }

  #tell(report: Partial<CheckpointReport>): void {
    this.#report = CheckpointReport.fromPartial(report);
    this.#container.changed();
  }
}
