/** Gets one entry into the log, or finds out what became of it. */
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { LogEntry } from "../../proto/gen/godwit/v1/log.ts";
import type { LogStore } from "./log-store.ts";
import type { LinkState } from "./link.ts";
import { pauseOn, type Machine } from "./machine.ts";
import type { Proposal } from "./proposals.ts";

/**
 * "conflict": another entry is in its place. "dropped": nobody waits for it any more and it is not there. "unknown":
 * what was in its place has been trimmed away.
 */
export type Fate = "stored" | "conflict" | "dropped" | "unknown";

const RETRY_MS = [20, 50, 100, 250, 500] as const;

/** Half a minute of them: after that it is not a server that lags behind. */
const SHORT_LOG_ATTEMPTS = 60;

/** Longer from attempt to attempt. */
export const backOff = (machine: Machine, attempt: number, signal: AbortSignal): Promise<void> =>
  pauseOn(machine, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)] ?? 500, signal);

interface AppenderOptions {
  readonly log: LogStore;
  readonly link: Pick<LinkState, "closed" | "connected" | "onReconnect">;
  readonly machine: Machine;
  readonly logger: Logger;
}

export class Appender {
  readonly #options: AppenderOptions;
  readonly #stop: AbortSignal;

  constructor(options: AppenderOptions, stop: AbortSignal) {
    this.#options = options;
    this.#stop = stop;
  }

  /**
   * Appends until it is known what became of the entry. Once nobody waits for it any more it is only looked for; should
   * it get in later all the same, it is found like an entry of anybody else. An entry without members is waited for by
   * the committer itself.
   */
  async append(id: string, bytes: Uint8Array, sequence: number, members: readonly Proposal[]): Promise<Fate> {
    const { link, log, logger, machine } = this.#options;
    for (let attempt = 0; ; attempt += 1) {
      if (this.#stop.aborted)
        throw new GodwitError(
          "unavailable",
          "the scheduler is shutting down; whether the change was made is not known",
        );
      if (link.closed) throw new GodwitError("unavailable", "the connection to NATS was closed");
      try {
        if (members.length > 0 && members.every((proposal) => proposal.settled)) {
          if (!link.connected) await this.#untilReconnected();
          const found = await this.#idAt(sequence);
          return found === undefined ? "dropped" : found === id ? "stored" : "conflict";
        }
        const result = await this.#untilBroken(log.append(bytes, sequence - 1));
        if (result.kind === "stored") return "stored";
        return await this.#whatIsAt(sequence, id, attempt);
      } catch (error) {
        const failure = GodwitError.from(error, "unavailable");
        if (failure.code === "corrupt") throw failure;
        if (attempt === 0) logger.warn({ err: error, sequence }, "an append was not answered; trying again");
        await backOff(machine, attempt, this.#stop);
      }
    }
  }

  /** After a conflict: something is there. Throws when it does not show, as on a server that lags behind. */
  async #whatIsAt(sequence: number, id: string, attempt: number): Promise<Fate> {
    const found = await this.#idAt(sequence);
    if (found !== undefined) return found === id ? "stored" : "conflict";
    const { first, last } = await this.#options.log.bounds();
    if (first > sequence) return "unknown";
    if (last < sequence - 1 && attempt >= SHORT_LOG_ATTEMPTS)
      throw new GodwitError(
        "corrupt",
        `the log ends with entry ${last}, but entry ${sequence - 1} was applied: it lost entries or was replaced by an older copy`,
      );
    throw new GodwitError("unavailable", `the log does not show entry ${sequence} yet`);
  }

  async #idAt(sequence: number): Promise<string | undefined> {
    const stored = await this.#options.log.readOne(sequence);
    return stored === undefined ? undefined : LogEntry.decode(stored.bytes).id;
  }

  /** Does not wait for the answer to a request that went down with its connection. */
  async #untilBroken<T>(request: Promise<T>): Promise<T> {
    const broken = Promise.withResolvers<never>();
    const giveUp = (): void => broken.reject(new GodwitError("unavailable", "the connection to NATS broke"));
    using _ = this.#options.link.onReconnect(giveUp);
    this.#stop.addEventListener("abort", giveUp, { once: true });
    try {
      return await Promise.race([request, broken.promise]);
    } finally {
      this.#stop.removeEventListener("abort", giveUp);
    }
  }

  async #untilReconnected(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    using _ = this.#options.link.onReconnect(resolve);
    const onAbort = (): void => resolve();
    this.#stop.addEventListener("abort", onAbort, { once: true });
    await promise;
    this.#stop.removeEventListener("abort", onAbort);
  }
}
