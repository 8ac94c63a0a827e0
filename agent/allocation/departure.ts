import { GodwitError } from "../../proto/contract/error.ts";
import type { MigrationOrder } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { SubjectSampler } from "../forecast/subject-sampler.ts";
import { copyStopped } from "../migrate/cold-source.ts";
import { type CopyOutcome, copyToTarget } from "../migrate/source.ts";
import { servePages } from "../migrate/page-service.ts";
import type { MigrationProgress } from "../migrate/progress.ts";
import { untilAborted } from "../migrate/until-aborted.ts";
import { learnOverhead } from "../model/move-costs.ts";
import type { RecordStatus } from "../model/record.ts";
import type { RecordedContainer } from "./container.ts";

interface Measured {
  readonly migrationId: string;
  readonly sampler: SubjectSampler;
  readonly orderedAtMs: number;
}

/** A session of a post-copy. */
interface Service {
  readonly session: number;
  readonly over: AbortController;
  readonly ended: Promise<void>;
}

/** A container's leaving this host: measured when it is ordered, copied, and remembered for a while when it has left. */
export class Departure implements Disposable {
  readonly #container: RecordedContainer;
  /** Measured while the target makes itself ready. */
  #measured: Measured | undefined;
  /** The copy that the target has, and when it was ordered. */
  #copied: (CopyOutcome & { readonly migrationId: string; readonly orderedAtMs: number }) | undefined;

  #service: Service | undefined;

  constructor(container: RecordedContainer) {
    this.#container = container;
  }

  /** Whether `order` is a post-copy for which this host has the frozen container. */
  servesFor(order: MigrationOrder | undefined): order is MigrationOrder {
    const { status } = this.#container;
    return (
      order?.mode === MigrationMode.POSTCOPY &&
      status?.kind === "frozen" &&
      status.migrationId === order.id &&
      status.sent !== "no"
    );
  }

  /** Gives the target the pages that it asks for, in the session that it has named last. Idempotent. */
  serve(order: MigrationOrder, progressOf: () => MigrationProgress): void {
    if (this.#service?.session === order.pageSession) return;
    this.#service?.over.abort(new GodwitError("cancelled", "the target has begun another session"));
    const progress = progressOf();
    const over = new AbortController();
    this.#service = {
      session: order.pageSession,
      over,
      ended: this.#serve(order, progress, over.signal),
    };
  }

  async #serve(order: MigrationOrder, progress: MigrationProgress, signal: AbortSignal): Promise<void> {
    const { host, runtime, logger } = this.#container;
    const { pageSession: session } = order;
    const before = progress.report();
    const [sentBefore, rawBefore] = [before.figures?.sentBytes ?? 0, before.bytesDone];
    try {
      const served = servePages({
        host,
        runtime,
        order,
        session,
        signal,
        told: (sentBytes, rawBytes) => {
          progress.figures({ sentBytes: sentBefore + sentBytes });
          progress.sent(rawBefore + rawBytes);
        },
      });
      await untilAborted(served, signal);
      logger.info({ migration: order.id, session }, "the target has all of the container's memory");
    } catch (error) {
      if (signal.aborted) return;
      const failure = GodwitError.from(error);
      logger.warn({ err: failure, migration: order.id, session }, "pages are not sent any more");
      // Anything else may pass: the target asks again.
      if (failure.code === "not-found") progress.fail(failure);
    }
  }

  /** Nobody asks for pages any more; or the container is about to change them. */
  async endService(): Promise<void> {
    const service = this.#service;
    this.#service = undefined;
    service?.over.abort(new GodwitError("cancelled", "the frozen container is not needed any more"));
    await service?.ended;
  }

  /** @param order undefined: it is to stay, or not to be moved from here */
  expect(order: MigrationOrder | undefined): void {
    if (this.#measured?.migrationId === order?.id) return;
    if (this.#measured !== undefined && this.#container.status?.kind === "running") void this.#announce();
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

  /**
   * It has not left, and its target has given up by now: until then that may have told the other hosts to send it there
   * what is meant for the container, also after this host had thawed it.
   */
  async #announce(): Promise<void> {
    const { runtime, record, logger } = this.#container;
    if (record === undefined) return;
    try {
      (await runtime.plug(record)).announce();
    } catch (error) {
      logger.warn({ err: error }, "the container's address could not be announced again");
    }
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
    copied.grip[Symbol.dispose]();
  }

  /** The move that it was copied for did not come off. */
  stayed(): void {
    const copied = this.#copied;
    this.#copied = undefined;
    if (copied?.recording !== undefined) this.#container.host.held.drop(copied.recording);
    copied?.grip[Symbol.dispose]();
  }

  /** Ends measuring. */
  [Symbol.dispose](): void {
    this.#measured?.sampler[Symbol.dispose]();
    this.#measured = undefined;
  }
}
