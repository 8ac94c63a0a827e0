/**
 * Turns proposed commands into log entries and applies what is in the log, one entry at a time.
 *
 * One loop owns the replica: it either catches up with the log or appends the next entry. An append names the last
 * sequence that it follows, so of two leaders one fails and learns from the log what happened. When no answer comes,
 * the same append is repeated: if the first one did get in, the repetition is a conflict, and the entry that is found
 * in its place carries our id.
 */
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { LogEntry, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { command } from "../plan/command.ts";
import { reject, type Outcome } from "../state/rejection.ts";
import type { LogStore } from "./jetstream-log.ts";
import type { LinkState } from "./link.ts";
import { pauseOn, type Machine } from "./machine.ts";
import { Proposal, ProposalQueue } from "./proposals.ts";
import type { Applied, Replica } from "./replica.ts";

const PROPOSAL_DEADLINE_MS = 15_000;
const RETRY_MS = [20, 50, 100, 250, 500] as const;

export interface CommitterOptions {
  readonly schedulerId: string;
  readonly log: LogStore;
  readonly replica: Replica;
  readonly link: Pick<LinkState, "closed" | "connected" | "onReconnect">;
  readonly machine: Machine;
  readonly logger: Logger;
  readonly deadlineMs?: number;
  /** Told each command before it is applied. */
  readonly onCommand?: (command: Command) => void;
  readonly onApplied?: (applied: Applied) => void;
}

type Fate = "stored" | "conflict" | "dropped";

const newEntryId = (atMs: number, machine: Machine): string =>
  `${atMs.toString(16).padStart(12, "0")}${machine.randomHex(8)}`;

export class Committer implements AsyncDisposable {
  readonly #options: CommitterOptions;
  readonly #queue = new ProposalQueue();
  readonly #stop = new AbortController();
  #behind = false;
  #awaitingLog: PromiseWithResolvers<void>[] = [];
  #wake = Promise.withResolvers<void>();
  #epoch: number | undefined;
  #failure: GodwitError | undefined;
  readonly #loop: Promise<void>;

  constructor(options: CommitterOptions) {
    this.#options = options;
    this.#loop = this.#run();
  }

  get replica(): Replica {
    return this.#options.replica;
  }
  /** Why this replica has stopped for good, if it has. */
  get failure(): GodwitError | undefined {
    return this.#failure;
  }
  get leading(): boolean {
    return (
      this.#epoch !== undefined &&
      this.#epoch === this.replica.cluster.state.epoch &&
      this.#failure === undefined
    );
  }

  /** Takes leadership: resolves once an entry with a new epoch is in the log and applied. */
  async lead(signal?: AbortSignal): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      const epoch = this.replica.cluster.state.epoch + 1;
      const outcome = await this.#enqueue(
        command("leaderElected", { schedulerId: this.#options.schedulerId, epoch }),
      );
      // Somebody else was faster; the state is ahead of what this epoch was taken from.
      if (outcome !== undefined) continue;
      return;
    }
  }

  /** Resolves with the outcome once the command is in the log and applied; rejects with `unavailable`. */
  async propose(proposed: Command): Promise<Outcome> {
    if (!this.leading) throw this.#notLeading();
    return this.#enqueue(proposed);
  }

  /** Looks for entries of others soon. */
  catchUp(): void {
    this.#behind = true;
    this.#wake.resolve();
  }

  /** Resolves when everything that is in the log by now has been applied; rejects with the failure that stops it. */
  async synchronize(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const waiter = Promise.withResolvers<void>();
    this.#awaitingLog.push(waiter);
    this.catchUp();
    await waiter.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#wake.resolve();
    await this.#loop;
  }

  async #enqueue(proposed: Command): Promise<Outcome> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#stop.signal.aborted) throw new GodwitError("unavailable", "the scheduler is shutting down");
    const { deadlineMs = PROPOSAL_DEADLINE_MS, machine } = this.#options;
    const proposal = new Proposal(proposed, deadlineMs, machine, () => this.#wake.resolve());
    this.#queue.push(proposal);
    this.#wake.resolve();
    return proposal.outcome;
  }

  #notLeading(): GodwitError {
    if (this.#failure !== undefined) return this.#failure;
    const { leaderId, epoch } = this.replica.cluster.state;
    return new GodwitError(
      "unavailable",
      `${this.#options.schedulerId} does not lead (any more): ${leaderId || "nobody"} does, with epoch ${epoch}`,
    );
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    let failures = 0;
    while (!signal.aborted) {
      if (!this.#behind && this.#queue.size === 0) {
        await this.#wake.promise;
        this.#wake = Promise.withResolvers<void>();
        continue;
      }
      try {
        if (this.#behind) {
          this.#behind = false;
          const waiters = [...this.#awaitingLog];
          await this.#readNew();
          this.#awaitingLog = this.#awaitingLog.filter((waiter) => !waiters.includes(waiter));
          for (const waiter of waiters) waiter.resolve();
        }
        const batch = this.#dropUnlessLeading(this.#queue.takeBatch());
        if (batch.length > 0) await this.#commit(batch);
        failures = 0;
      } catch (error) {
        const failure = GodwitError.from(error, "unavailable");
        if (failure.code === "corrupt" || failure.code === "internal" || this.#options.link.closed) {
          this.#fail(failure);
          return;
        }
        this.#behind = true;
        if (failures === 0) this.#options.logger.warn({ err: error }, "the log cannot be read; trying again");
        await this.#backOff(failures);
        failures += 1;
      }
    }
    this.#rejectAll(new GodwitError("unavailable", "the scheduler is shutting down"));
  }

  #rejectAll(error: GodwitError): void {
    this.#queue.rejectAll(error);
    for (const waiter of this.#awaitingLog.splice(0)) waiter.reject(error);
  }

  #fail(failure: GodwitError): void {
    this.#failure = failure;
    this.#rejectAll(failure);
    this.#options.logger.error({ err: failure }, "the scheduler has stopped following the log");
  }

  /** An election may be proposed by anybody, everything else by the leader. */
  #dropUnlessLeading(batch: Proposal[]): Proposal[] {
    if (this.leading) return batch;
    return batch.filter((proposal) => {
      const { command: one } = proposal.command;
      if (one?.$case === "leaderElected") {
        if (one.value.epoch > this.replica.cluster.state.epoch) return true;
        proposal.resolve(reject("refused", "another scheduler was elected meanwhile"));
        return false;
      }
      proposal.reject(this.#notLeading());
      return false;
    });
  }

  async #readNew(): Promise<void> {
    const { log, replica } = this.#options;
    const { first, last } = await log.bounds();
    if (last < replica.sequence)
      throw new GodwitError(
        "corrupt",
        `the log ends with entry ${last}, but entry ${replica.sequence} was applied: it lost entries or was replaced by an older copy`,
      );
    if (first > replica.sequence + 1 && last > replica.sequence)
      throw new GodwitError(
        "corrupt",
        `the log was trimmed beyond entry ${replica.sequence}: start this scheduler again to load the snapshot`,
      );
    for await (const stored of log.read(replica.sequence + 1, last))
      this.#apply(stored.sequence, stored.bytes);
  }

  #apply(sequence: number, bytes: Uint8Array): Applied {
    const { onCommand, onApplied, replica, schedulerId, logger } = this.#options;
    const wasLeading = this.leading;
    let applied: Applied;
    try {
      applied = replica.apply({ sequence, bytes }, (one) => onCommand?.(one));
    } catch (error) {
      // Anything but a refusal to apply may have left the state half changed.
      throw GodwitError.from(error, "internal");
    }
    if (wasLeading && !this.leading) {
      const { leaderId, epoch } = replica.cluster.state;
      logger.warn({ leaderId, epoch }, `${schedulerId} steps down: a newer leader is in the log`);
    }
    onApplied?.(applied);
    return applied;
  }

  async #commit(batch: readonly Proposal[]): Promise<void> {
    const { machine, replica } = this.#options;
    const election = batch.find((proposal) => proposal.command.command?.$case === "leaderElected");
    // An election stands alone: the commands beside it would belong to another epoch.
    const members = election === undefined ? batch : [election];
    if (election !== undefined) this.#queue.putBack(batch.filter((proposal) => proposal !== election));
    const elected =
      election?.command.command?.$case === "leaderElected" ? election.command.command.value.epoch : undefined;
    const atMs = Math.max(machine.nowMs(), replica.lastAtMs);
    const entry: LogEntry = {
      id: newEntryId(atMs, machine),
      epoch: elected ?? this.#epoch ?? 0,
      atMs,
      prevHash: replica.chainHash,
      commands: members.map((proposal) => proposal.command),
    };
    const bytes = LogEntry.encode(entry).finish();
    const sequence = replica.sequence + 1;
    for (const proposal of members) proposal.inFlight = true;
    let fate: Fate;
    try {
      fate = await this.#append(entry.id, bytes, sequence, members);
    } catch (error) {
      for (const proposal of members)
        if (!proposal.settled) proposal.reject(GodwitError.from(error, "unavailable"));
      throw error;
    }
    if (fate !== "stored") {
      this.#queue.putBack(members);
      this.#behind = true;
      return;
    }
    const epochBefore = this.#epoch;
    if (elected !== undefined) this.#epoch = elected;
    const { outcomes } = this.#apply(sequence, bytes);
    if (elected !== undefined && outcomes[0] !== undefined) this.#epoch = epochBefore;
    for (const [at, proposal] of members.entries()) if (!proposal.settled) proposal.resolve(outcomes[at]);
  }

  /**
   * Appends until it is known what became of the entry. Once nobody waits for it any more it is only looked for; should
   * it get in later all the same, it is found like an entry of anybody else.
   */
  async #append(
    id: string,
    bytes: Uint8Array,
    sequence: number,
    members: readonly Proposal[],
  ): Promise<Fate> {
    const { link, log, logger } = this.#options;
    for (let attempt = 0; ; attempt += 1) {
      if (this.#stop.signal.aborted)
        throw new GodwitError(
          "unavailable",
          "the scheduler is shutting down; whether the change was made is not known",
        );
      if (link.closed) throw new GodwitError("unavailable", "the connection to NATS was closed");
      try {
        if (members.every((proposal) => proposal.settled)) {
          if (!link.connected) await this.#untilReconnected();
          const found = await this.#idAt(sequence);
          return found === undefined ? "dropped" : found === id ? "stored" : "conflict";
        }
        const result = await this.#untilBroken(log.append(bytes, sequence - 1));
        if (result.kind === "stored") return "stored";
        return (await this.#idAt(sequence)) === id ? "stored" : "conflict";
      } catch (error) {
        const failure = GodwitError.from(error, "unavailable");
        if (failure.code === "corrupt") throw failure;
        if (attempt === 0) logger.warn({ err: error, sequence }, "an append was not answered; trying again");
        await this.#backOff(attempt);
      }
    }
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
    this.#stop.signal.addEventListener("abort", giveUp, { once: true });
    try {
      return await Promise.race([request, broken.promise]);
    } finally {
      this.#stop.signal.removeEventListener("abort", giveUp);
    }
  }

  async #untilReconnected(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    using _ = this.#options.link.onReconnect(resolve);
    this.#stop.signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
  }

  async #backOff(attempt: number): Promise<void> {
    const ms = RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)] ?? 500;
    await pauseOn(this.#options.machine, ms, this.#stop.signal);
  }
}
