import { GodwitError } from "../../proto/contract/error.ts";
import { type DesiredAllocation, MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import type { MigrationProgress } from "../migrate/progress.ts";
import { dropImage, receiveFromSource, restoreAgain, type TargetInputs } from "../migrate/target.ts";
import type { InitProcess } from "../model/record.ts";
import type { RecordedContainer } from "./container.ts";

/** A migration's end as a step of the target: what was ordered, and how it learns of the switch. */
export interface ArrivalOrder {
  readonly migrationId: string;
  readonly progress: MigrationProgress;
  readonly signal: AbortSignal;
  readonly switched: () => Promise<void>;
}

/** A container's coming to this host: received, restored, run, and its image removed when it has served. */
export class Arrival {
  readonly #container: RecordedContainer;
  readonly #lifetime = new AbortController();
  #imageDrop: Promise<void> = Promise.resolve();

  constructor(container: RecordedContainer) {
    this.#container = container;
  }

  /** Resolves when no image of an earlier arrival is in use or in the way any more. */
  get settled(): Promise<void> {
    return this.#imageDrop;
  }

  async receive(desired: DesiredAllocation, order: ArrivalOrder): Promise<void> {
    this.#container.begin(desired, 0);
    try {
      if (desired.migration === undefined) throw new GodwitError("internal", "a target without a migration");
      this.#runs(await receiveFromSource(this.#inputs(order), desired.migration), order.progress);
    } catch (error) {
      this.#container.logger.warn(
        { err: error, migration: order.migrationId },
        "the container could not be received",
      );
      // Nothing is deleted here: if the leader has switched already, the received image is all there is of the
      // container and is tried again; if not, the abort's order says to remove it.
      if (await this.adopt()) order.progress.enter(MigrationPhase.RUNNING);
      else order.progress.fail(GodwitError.from(error));
    }
  }

  /** After a crash or a failure behind the switch, from the image that was received whole. */
  async resume(order: ArrivalOrder): Promise<void> {
    const { status } = this.#container;
    if (status?.kind !== "restoring" || status.description === undefined) return;
    this.#runs(await restoreAgain(this.#inputs(order), status.description), order.progress);
  }

  /**
   * Settles what a restore that was cut off has left: answers true when the container runs, and makes the record
   * say that it does; otherwise none of it has run, and the record says that the image is here.
   */
  async adopt(): Promise<boolean> {
    const { status, runtime, record, host, id } = this.#container;
    if (status?.kind !== "restoring" || status.stage !== "ran" || record === undefined) return false;
    const { init } = status;
    const runs = init !== undefined && runtime.isRunning(init);
    if (init !== undefined && (runs || (await this.#container.recordedExit(init.pid)) !== undefined)) {
      if (runs) {
        await host.runc.adoptInit(id, init.pid, init.startTicks, runtime.paths.rootfs);
        runtime.cgroup.applyLimits(record.spec.limits);
        await runtime.reattachOutput(init);
      }
      this.#runs(init, undefined);
      return true;
    }
    // CRIU undid its work because nobody answered it.
    this.#container.setStatus({ kind: "restoring", migrationId: status.migrationId, stage: "received" });
    return false;
  }

  /** In the background: a restored container runs while its memory is still being filled from the image. */
  dropImage(): void {
    this.#imageDrop = dropImage(this.#container.runtime, this.#lifetime.signal).catch((error: unknown) => {
      if (this.#lifetime.signal.aborted) return;
      this.#container.logger.warn({ err: error }, "a checkpoint image could not be removed");
    });
  }

  close(): void {
    this.#lifetime.abort();
  }

  #runs(init: InitProcess, progress: MigrationProgress | undefined): void {
    this.#container.setStatus({ kind: "running", init, startedAtMs: Date.now() });
    progress?.enter(MigrationPhase.RUNNING);
    this.dropImage();
  }

  #inputs({ migrationId, progress, signal, switched }: ArrivalOrder): TargetInputs {
    const { host, runtime, record } = this.#container;
    if (record === undefined) throw new GodwitError("internal", "a restore without a record");
    const setStatus: TargetInputs["setStatus"] = (status) => this.#container.setStatus(status);
    return { host, runtime, record, migrationId, signal, progress, switched, setStatus };
  }
}
