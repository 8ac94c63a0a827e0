/** Commands that wait to be committed, each with a deadline of its own. */
import { encoded } from "../../proto/contract/encoded.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { Command } from "../../proto/gen/godwit/v1/log.ts";
import { formatBytes } from "../model/quantity.ts";
import type { Outcome } from "../state/rejection.ts";
import type { Machine } from "./machine.ts";

/** A batch becomes one message, which NATS limits to 1 MiB. Commands are checked to be much smaller. */
const MAX_BATCH_BYTES = 768 * 1024;
const MAX_COMMAND_BYTES = 512 * 1024;
const MAX_BATCH_COMMANDS = 1_000;

export class Proposal {
  readonly command: Command;
  /** Encoded, as it goes into the entry. */
  readonly encoded: Uint8Array;
  /** A part of an entry that may be in the log or not. */
  inFlight = false;
  /** It is meant for this end of the log and for no later one. */
  onlyAfter: number | undefined;
  #settled = false;
  readonly #settle: PromiseWithResolvers<Outcome> = Promise.withResolvers<Outcome>();
  readonly #timer: Disposable;

  constructor(
    command: Command,
    deadlineMs: number,
    machine: Pick<Machine, "after">,
    onDeadline: (proposal: Proposal) => void,
  ) {
    this.command = command;
    this.encoded = encoded(Command, command);
    if (this.bytes > MAX_COMMAND_BYTES)
      throw new GodwitError(
        "invalid",
        `a change of ${formatBytes(this.bytes)} does not fit the log (${formatBytes(MAX_COMMAND_BYTES)})`,
      );
    this.#timer = machine.after(deadlineMs, () => {
      this.reject(
        new GodwitError(
          "unavailable",
          this.inFlight
            ? `the log did not answer within ${deadlineMs / 1000} s; whether the change was made is not known: look before you repeat it`
            : `the log could not be reached within ${deadlineMs / 1000} s; nothing was changed: check nats-server and try again`,
        ),
      );
      onDeadline(this);
    });
  }

  get bytes(): number {
    return this.encoded.length;
  }
  get settled(): boolean {
    return this.#settled;
  }
  get outcome(): Promise<Outcome> {
    return this.#settle.promise;
  }
  resolve(outcome: Outcome): void {
    this.#end();
    this.#settle.resolve(outcome);
  }
  reject(error: GodwitError): void {
    this.#end();
    this.#settle.reject(error);
  }
  #end(): void {
    this.#settled = true;
    this.#timer[Symbol.dispose]();
  }
}

export class ProposalQueue {
  #waiting: Proposal[] = [];

  get size(): number {
    return this.#waiting.length;
  }
  push(proposal: Proposal): void {
    this.#waiting.push(proposal);
  }
  /** As many as fit one entry, oldest first. */
  takeBatch(): Proposal[] {
    let bytes = 0;
    let count = 0;
    this.#waiting = this.#waiting.filter((proposal) => !proposal.settled);
    for (const proposal of this.#waiting) {
      bytes += proposal.bytes;
      if (count > 0 && (bytes > MAX_BATCH_BYTES || count >= MAX_BATCH_COMMANDS)) break;
      count += 1;
    }
    return this.#waiting.splice(0, count);
  }
  /** Puts a batch that certainly did not get into the log back to the front. */
  putBack(batch: readonly Proposal[]): void {
    for (const proposal of batch) proposal.inFlight = false;
    this.#waiting.unshift(...batch.filter((proposal) => !proposal.settled));
  }
  rejectAll(error: GodwitError): void {
    for (const proposal of this.#waiting.splice(0)) if (!proposal.settled) proposal.reject(error);
  }
}
