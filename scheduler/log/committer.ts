/**
 * Turns proposed commands into log entries and applies what is in the log, one entry at a time.
 *
 * One loop owns the replica: it either catches up with the log or appends the next entry. An append names the last
 * sequence that it follows, so of two leaders one fails and learns from the log what happened. When no answer comes,
 * the same append is repeated: if the first one did get in, the repetition is a conflict, and the entry that is found
 * in its place carries our id.
 */
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import type { Logger } from "pino";
import { encoded } from "../../proto/contract/encoded.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { Command, LogEntry } from "../../proto/gen/godwit/v1/log.ts";
import { command } from "../plan/command.ts";
import { reject, type Outcome } from "../state/rejection.ts";
import { Appender, backOff, type Fate } from "./appender.ts";
import { Confirmation } from "./confirmation.ts";
import type { LogStore } from "./log-store.ts";
import type { LinkState } from "./link.ts";
import type { Machine } from "./machine.ts";
import { Proposal, ProposalQueue } from "./proposals.ts";
import type { Applied, Replica, ReplicaStart } from "./replica.ts";

const PROPOSAL_DEADLINE_MS = 15_000;
/** A server that was cut off from the others may show an old end of the log until it notices. */
const SHORT_LOG_MS = 30_000;
/** Of LogEntry.commands: field 5, a message. */
const COMMANDS_TAG = (5 << 3) | 2;

export interface CommitterOptions {
  readonly schedulerId: string;
  readonly log: LogStore;
  readonly replica: Replica;
  readonly link: Pick<LinkState, "closed" | "connected" | "onReconnect">;
  readonly machine: Machine;
  readonly logger: Logger;
  readonly deadlineMs?: number;
  /**
   * How a leader makes sure that it still leads: "read" where one server has the log, whose word is the last one;
   * "append" where several have it, since one that was cut off from the others would still show what it knows.
   */
  readonly confirmBy?: "read" | "append";
  /** The newest snapshot, for a replica that the log was trimmed beyond. */
  readonly reload?: () => Promise<ReplicaStart | undefined>;
  /** Of a leader: what follows from commands that are about to be applied, for the same entry. */
  readonly together?: (commands: readonly Command[]) => readonly Command[];
  /** Told each command before it is applied. */
  readonly onCommand?: (command: Command) => void;
  readonly onApplied?: (applied: Applied) => void;
}

const NOT_KNOWN = new GodwitError(
  "unavailable",
  "the log was trimmed beyond the change; whether it was made is not known: look before you repeat it",
);

const newEntryId = (atMs: number, machine: Machine): string =>
  `${atMs.toString(16).padStart(12, "0")}${machine.randomHex(8)}`;

export class Committer implements AsyncDisposable {
  readonly #options: CommitterOptions;
  readonly #queue = new ProposalQueue();
  readonly #stop = new AbortController();
  #behind = false;
  #awaitingLog: PromiseWithResolvers<void>[] = [];
  /** Of `confirm`: the next append answers them. */
  #awaitingAppend: PromiseWithResolvers<void>[] = [];
  readonly #confirmation: Confirmation;
  /** Keeps its buffer from one entry to the next. */
  readonly #writer = new BinaryWriter();
  readonly #appender: Appender;
  #shortSinceMs: number | undefined;
  #wake = Promise.withResolvers<void>();
  #epoch: number | undefined;
  #failure: GodwitError | undefined;
  readonly #loop: Promise<void>;

  constructor(options: CommitterOptions) {
    this.#options = options;
    this.#confirmation = new Confirmation(options.machine);
    this.#appender = new Appender(options, this.#stop.signal);
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

  /** Whether it was certain within the last `ms` that this scheduler leads. */
  confirmedWithin(ms: number): boolean {
    return this.leading && this.#confirmation.within(ms);
  }

  /** Takes leadership, whoever has it: resolves once an entry with a new epoch is in the log and applied. */
  async lead(signal?: AbortSignal): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      // If somebody else was faster, the state is ahead of what this epoch was taken from.
      if ((await this.#elect()) === undefined) return;
    }
  }

  /** Takes leadership unless an entry gets into the log first, by which somebody shows that he leads. */
  async stand(): Promise<boolean> {
    return (await this.#elect(this.replica.sequence)) === undefined;
  }

  #elect(after?: number): Promise<Outcome> {
    const epoch = this.replica.cluster.state.epoch + 1;
    const { schedulerId } = this.#options;
    return this.#enqueue(command("leaderElected", { schedulerId, epoch }), after);
  }

  /** Resolves when it was certain, at a moment since the call, that this scheduler leads; rejects with `unavailable`. */
  async confirm(): Promise<void> {
    if (!this.leading) throw this.#notLeading();
    if (this.#options.confirmBy === "append") {
      const waiter = Promise.withResolvers<void>();
      this.#awaitingAppend.push(waiter);
      this.#wake.resolve();
      await waiter.promise;
    } else await this.synchronize();
    if (!this.leading) throw this.#notLeading();
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

  async #enqueue(proposed: Command, after?: number): Promise<Outcome> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#stop.signal.aborted) throw new GodwitError("unavailable", "the scheduler is shutting down");
    const { deadlineMs = PROPOSAL_DEADLINE_MS, machine } = this.#options;
    const proposal = new Proposal(proposed, deadlineMs, machine, () => this.#wake.resolve());
    if (after !== undefined) proposal.onlyAfter = after;
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
      if (!this.#behind && this.#queue.size === 0 && this.#awaitingAppend.length === 0) {
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
        if (batch.length > 0 || this.#awaitingAppend.length > 0) await this.#commit(batch);
        failures = 0;
      } catch (error) {
        const failure = GodwitError.from(error, "unavailable");
        if (failure.code === "corrupt" || failure.code === "internal" || this.#options.link.closed) {
          this.#fail(failure);
          return;
        }
        this.#behind = true;
        if (failures === 0) this.#options.logger.warn({ err: error }, "the log cannot be read; trying again");
        await backOff(this.#options.machine, failures, signal);
        failures += 1;
      }
    }
    this.#rejectAll(new GodwitError("unavailable", "the scheduler is shutting down"));
  }

  #rejectAll(error: GodwitError): void {
    this.#queue.rejectAll(error);
    for (const waiter of [...this.#awaitingLog.splice(0), ...this.#awaitingAppend.splice(0)])
      waiter.reject(error);
  }

  #fail(failure: GodwitError): void {
    this.#failure = failure;
    this.#rejectAll(failure);
    this.#options.logger.error({ err: failure }, "the scheduler has stopped following the log");
  }

  /** An election may be proposed by anybody, everything else by the leader. */
  #dropUnlessLeading(batch: Proposal[]): Proposal[] {
    if (this.leading) return batch;
    for (const waiter of this.#awaitingAppend.splice(0)) waiter.reject(this.#notLeading());
    return batch.filter((proposal) => {
      const { command: one } = proposal.command;
      if (proposal.onlyAfter !== undefined && proposal.onlyAfter !== this.replica.sequence) {
        proposal.resolve(reject("refused", "somebody else leads: an entry got into the log meanwhile"));
        return false;
      }
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
    const { confirmBy, log, replica } = this.#options;
    const moment = this.#confirmation.moment();
    const { first, last } = await log.bounds();
    if (last < replica.sequence) throw this.#shortLog(last, moment.monotonicMs);
    this.#shortSinceMs = undefined;
    if (first > replica.sequence + 1 && last > replica.sequence) await this.#reload();
    for await (const stored of log.read(replica.sequence + 1, last))
      this.#apply(stored.sequence, stored.bytes);
    if (confirmBy !== "append" && this.leading) this.#confirmation.note(moment);
  }

  #shortLog(last: number, monotonicMs: number): GodwitError {
    const { confirmBy, replica } = this.#options;
    this.#shortSinceMs ??= monotonicMs;
    const mayPass = confirmBy === "append" && monotonicMs - this.#shortSinceMs < SHORT_LOG_MS;
    return new GodwitError(
      mayPass ? "unavailable" : "corrupt",
      `the log ends with entry ${last}, but entry ${replica.sequence} was applied: it lost entries or was replaced by an older copy`,
    );
  }

  /** What was trimmed away is in a snapshot. */
  async #reload(): Promise<void> {
    const { logger, reload, replica } = this.#options;
    const before = replica.sequence;
    const start = await reload?.();
    if (start === undefined || start.sequence <= before)
      throw new GodwitError(
        "corrupt",
        `the log was trimmed beyond entry ${before}, and there is no snapshot that is newer`,
      );
    replica.restart(start);
    logger.warn(
      { before, sequence: start.sequence },
      "the log was trimmed meanwhile; the snapshot was loaded",
    );
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

  #together(members: readonly Proposal[]): readonly Uint8Array[] {
    const { logger, together } = this.#options;
    if (members.length === 0) return [];
    try {
      const commands = together?.(members.map((proposal) => proposal.command)) ?? [];
      return commands.map((one) => encoded(Command, one));
    } catch (error) {
      // What was proposed is to get into the log all the same.
      logger.error({ err: error }, "what follows from proposed commands could not be planned with them");
      return [];
    }
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
      commands: [],
    };
    const follows = election === undefined ? this.#together(members) : [];
    // The members were encoded to be measured.
    const parts = [...members.map((proposal) => proposal.encoded), ...follows];
    const writer = LogEntry.encode(entry, this.#writer);
    for (const part of parts) writer.uint32(COMMANDS_TAG).bytes(part);
    const bytes = writer.finish();
    const sequence = replica.sequence + 1;
    for (const proposal of members) proposal.inFlight = true;
    const waiters = this.#awaitingAppend.splice(0);
    const moment = this.#confirmation.moment();
    let fate: Fate;
    try {
      fate = await this.#appender.append(entry.id, bytes, sequence, members);
    } catch (error) {
      const failure = GodwitError.from(error, "unavailable");
      for (const waiter of waiters) waiter.reject(failure);
      for (const proposal of members) if (!proposal.settled) proposal.reject(failure);
      throw error;
    }
    if (fate !== "stored") {
      this.#awaitingAppend.unshift(...waiters);
      if (fate === "unknown") for (const proposal of members) proposal.reject(NOT_KNOWN);
      this.#queue.putBack(members);
      this.#behind = true;
      return;
    }
    const epochBefore = this.#epoch;
    if (elected !== undefined) this.#epoch = elected;
    const { outcomes } = this.#apply(sequence, bytes);
    if (elected !== undefined && outcomes[0] !== undefined) this.#epoch = epochBefore;
    if (this.leading) this.#confirmation.note(moment);
    for (const waiter of waiters) waiter.resolve();
    for (const [at, proposal] of members.entries()) if (!proposal.settled) proposal.resolve(outcomes[at]);
  }
}
