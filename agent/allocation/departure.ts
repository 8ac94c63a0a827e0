import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { SubjectSampler } from "../forecast/subject-sampler.ts";
import { copyStopped } from "../migrate/cold-source.ts";
import { type CopyOutcome, copyToTarget } from "../migrate/source.ts";
import type { MigrationProgress } from "../migrate/progress.ts";
import { learnOverhead } from "../model/move-costs.ts";
import type { RecordStatus } from "../model/record.ts";
import type { RecordedContainer } from "./container.ts";

interface Measured {
  readonly migrationId: string;
  readonly sampler: SubjectSampler;
  readonly orderedAtMs: number;
}

/** A container's leaving this host: measured when it is ordered, copied, and remembered for a while when it has left. */
export class Departure implements Disposable {
  readonly #container: RecordedContainer;
  /** Measured while the target makes itself ready. */
  #measured: Measured | undefined;
  /** The copy that the target has, and when it was ordered. */
  #copied: (CopyOutcome & { readonly migrationId: string; readonly orderedAtMs: number }) | undefined;

  constructor(container: RecordedContainer) {
    this.#container = container;
  }

  /** @param order undefined: it is to stay, or not to be moved from here */
  expect(order: MigrationOrder | undefined): void {
    if (this.#measured?.migrationId === order?.id) return;
    this[Symbol.dispose]();
    if (order === undefined || this.#container.status?.kind !== "running") return;
    // Of its memory nothing goes along.
    if (order.mode === MigrationMode.COLD) return;
    this.#measured = {
      migrationId: order.id,
      sampler: new SubjectSampler(this.#container.runtime),
      orderedAtMs: performance.now(),
    };
  }

  async copy(order: MigrationOrder, progress: MigrationProgress, signal: AbortSignal): Promise<void> {
    const { host, runtime, record } = this.#container;
    if (record === undefined) return;
    this.stayed();
    const setStatus = (status: RecordStatus): void => this.#container.setStatus(status);
    const inputs = { host, runtime, record, order, signal, setStatus, progress };
    if (order.mode === MigrationMode.COLD) {
      await copyStopped(inputs);
      return;
    }
    const orderedAtMs = this.#measured?.orderedAtMs ?? performance.now();
    const copied = await copyToTarget({
      ...inputs,
      sampler: this.#measured?.sampler ?? new SubjectSampler(runtime),
    });
    this.#copied = { ...copied, migrationId: order.id, orderedAtMs };
  }

  /** It is gone from here. @param migrationId by which it has left; undefined: it was removed */
  gone(migrationId: string | undefined): void {
    const copied = this.#copied;
    if (copied === undefined || copied.migrationId !== migrationId) {
      this.stayed();
      return;
    }
    this.#copied = undefined;
    const { host } = this.#container;
    const overheadMs = performance.now() - copied.orderedAtMs - copied.forecastMs;
    host.costs.learn((costs) => learnOverhead(costs, overheadMs));
    if (copied.recording !== undefined) host.held.keep(copied.recording);
  }

  /** The move that it was copied for did not come off. */
  stayed(): void {
    const recording = this.#copied?.recording;
    this.#copied = undefined;
    if (recording !== undefined) this.#container.host.held.drop(recording);
  }

  /** Ends measuring. */
  [Symbol.dispose](): void {
    this.#measured?.sampler[Symbol.dispose]();
    this.#measured = undefined;
  }
}
