import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { HealthState, type HealthCheck } from "../../proto/gen/godwit/v1/spec.ts";
import type { RecordedContainer } from "../allocation/container.ts";
import { afterCheck, nextCheckInMs, tallyFrom, termsOf, type HealthTally } from "../model/health.ts";
import type { InitProcess } from "../model/record.ts";
import { bounded, probeHttp, probeTcp, type Finding } from "./probe.ts";

/** While the container is not looked at, because it is about to be frozen or there is no room for another command. */
const PUT_OFF_MS = 1_000;

/** Checks one container for as long as it runs here. What it finds is in the container's record. */
export class HealthMonitor {
  readonly #container: RecordedContainer;
  readonly #changed: () => void;
  readonly #closing = new AbortController();
  /** Of the life of the container that is being watched. */
  #watched: { readonly init: InitProcess; readonly end: AbortController } | undefined;
  #watching: Promise<void> = Promise.resolve();
  #output = "";

  /** @param changed the container's health is another one */
  constructor(container: RecordedContainer, changed: () => void) {
    this.#container = container;
    this.#changed = changed;
  }

  /** What the last check said. */
  get output(): string {
    return this.#output;
  }

  /** To be called whenever the container may have begun or ceased to run. */
  follow(): void {
    const { record } = this.#container;
    const status = record?.status;
    const init = status?.kind === "running" ? status.init : undefined;
    const check = record?.spec.health;
    const watched = this.#watched;
    if (
      watched !== undefined &&
      (init?.pid !== watched.init.pid || init.startTicks !== watched.init.startTicks)
    ) {
      watched.end.abort();
      this.#watched = undefined;
    }
    if (init === undefined || check === undefined || this.#watched !== undefined) return;
    if (this.#closing.signal.aborted || status?.kind !== "running") return;
    const end = new AbortController();
    this.#watched = { init, end };
    this.#output = "";
    const signal = AbortSignal.any([end.signal, this.#closing.signal]);
    const before = this.#watching;
    this.#watching = (async () => {
      await before;
      await this.#watch(check, init, status.startedAtMs, signal);
    })().catch((error: unknown) => {
      if (!signal.aborted)
        this.#container.logger.error({ err: error }, "the container's health is not checked any more");
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#watching;
  }

  async #watch(
    check: HealthCheck,
    init: InitProcess,
    startedAtMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    const terms = termsOf(check);
    let tally = tallyFrom(this.#container.record?.health ?? HealthState.UNSPECIFIED);
    let isFirst = true;
    while (!signal.aborted) {
      const ranMs = (): number => Date.now() - startedAtMs;
      await delay(nextCheckInMs(tally, ranMs(), terms, isFirst), undefined, { signal, ref: false });
      const finding = await this.#look(check, init, terms.timeoutMs, signal);
      signal.throwIfAborted();
      if (finding === undefined) {
        await delay(PUT_OFF_MS, undefined, { signal, ref: false });
        continue;
      }
      isFirst = false;
      tally = afterCheck(tally, finding.succeeded, ranMs(), terms);
      this.#note(tally, finding);
    }
  }

  #note(tally: HealthTally, { output }: Finding): void {
    this.#output = output;
    const before = this.#container.record?.health;
    if (before === tally.state) return;
    this.#container.logger.info({ health: tally.state, output }, "the container's health has changed");
    this.#container.setHealth(tally.state);
    this.#changed();
  }

  /** Undefined: nothing can be said, because the container could not be looked at or was about to be frozen. */
  async #look(
    check: HealthCheck,
    init: InitProcess,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<Finding | undefined> {
    const { host, id, runtime } = this.#container;
    const late = AbortSignal.timeout(timeoutMs);
    try {
      const finding = await host.exec().visit(id, async (leaving) => {
        const either = AbortSignal.any([signal, leaving, late]);
        try {
          return await this.#probe(check, init, either);
        } catch (error) {
          if (signal.aborted || leaving.aborted || !late.aborted) throw error;
          return { succeeded: false, output: `no answer within ${timeoutMs} ms` };
        }
      });
      // One that has ended is not ill; what becomes of it is another's to say.
      return finding.succeeded || runtime.isRunning(init) ? finding : undefined;
    } catch (error) {
      if (signal.aborted) return undefined;
      this.#container.logger.debug({ err: error }, "a health check was put off");
      return undefined;
    }
  }

  async #probe({ probe }: HealthCheck, init: InitProcess, signal: AbortSignal): Promise<Finding> {
    const networkPath = `/proc/${init.pid}/ns/net`;
    switch (probe?.$case) {
      case "tcpPort":
        return await probeTcp(networkPath, probe.value, signal);
      case "http":
        return await probeHttp(networkPath, probe.value, signal);
      case "command": {
        const { host, id } = this.#container;
        const { code, output, error } = await host.exec().command(id, probe.value.arguments, signal);
        const said = error === "" ? output : error;
        return { succeeded: code === 0, output: bounded(code === 0 ? said : `exit code ${code}: ${said}`) };
      }
      case undefined:
        throw new GodwitError("invalid", "a health check without a probe");
    }
  }
}
