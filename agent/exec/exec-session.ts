import type { Readable } from "node:stream";

import type { NatsConnection, Subscription } from "@nats-io/transport-node";
import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import { ExecFrame, type ExecOpen } from "../../proto/gen/godwit/v1/agent.ts";
import { CreditWindow } from "./credit-window.ts";
import { EXIT_KILLED, type ExecOutcome } from "./outcome.ts";
import { RuncExec } from "./runc-exec.ts";

/** Output that the client takes on trust, before its first credit frame. */
const INITIAL_CREDIT_BYTES = 256 * 1024;
/** Credit beyond this counts for nothing. */
const MAXIMUM_CREDIT_BYTES = 4 * 1024 * 1024;
/** Input that the client may send before it is told, by credit frames, that some was taken. */
const INPUT_WINDOW_BYTES = 512 * 1024;
/** More input than this that the process has not taken: the client does not keep to its window. */
const INPUT_LIMIT_BYTES = 1024 * 1024;
const FRAME_BYTES = 64 * 1024;
/** Credit for input is given in steps, not for each key. */
const INPUT_CREDIT_STEP_BYTES = 128 * 1024;
const KILL_WITHIN_MS = 5_000;

type Frame = NonNullable<ExecFrame["frame"]>;

export interface ExecSessionOptions {
  readonly id: string;
  readonly open: ExecOpen;
  readonly connection: NatsConnection;
  readonly inputSubject: string;
  readonly logger: Logger;
}

/**
 * One client's exec: its frames in, the process's output and exit out.
 *
 * `run` is called once; `end` may be called at any time and any number of times, the first reason counts.
 */
export class ExecSession {
  readonly id: string;
  readonly containerId: string;
  readonly outputSubject: string;
  /** Resolves when no process of it is left, or with false when one is left that could not be killed yet. */
  readonly ended: Promise<boolean>;
  readonly #options: ExecSessionOptions;
  readonly #credit = new CreditWindow(INITIAL_CREDIT_BYTES, MAXIMUM_CREDIT_BYTES);
  readonly #ending = new AbortController();
  readonly #resolveEnded: (clean: boolean) => void;
  #exec: RuncExec | undefined;
  #input: Subscription | undefined;
  /** Clients begin with 0 or 1. */
  #nextInput: number | undefined;
  #outputSequence = 0;
  #untoldInputBytes = 0;

  constructor(options: ExecSessionOptions) {
    this.#options = options;
    this.id = options.id;
    this.containerId = options.open.containerId;
    this.outputSubject = options.open.outputSubject;
    const ended = Promise.withResolvers<boolean>();
    this.ended = ended.promise;
    this.#resolveEnded = ended.resolve;
  }

  /** Ends the session with an error. Processes are killed; `ended` tells when they are gone. */
  end(reason: string): void {
    this.#ending.abort(new GodwitError("cancelled", reason));
  }

  /** @param start gives the process; `opened` is called when it has and the client may send */
  async run(start: () => Promise<RuncExec>, opened: () => void): Promise<void> {
    let clean = true;
    try {
      await using exec = await start();
      this.#exec = exec;
      this.#input = this.#options.connection.subscribe(this.#options.inputSubject, {
        callback: (error, message) => {
          if (error !== null) this.end(`the client's frames cannot be received: ${error.message}`);
          else this.#takeFrame(message.data);
          // A client that asks whether its session is still there is spared the time-out.
          if (error === null && message.reply !== undefined && message.reply !== "") message.respond();
        },
      });
      if (this.#options.open.stdin) this.#send({ $case: "credit", value: INPUT_WINDOW_BYTES });
      opened();
      let outcome: ExecOutcome;
      try {
        outcome = await this.#transfer(exec);
      } catch (error) {
        clean = await exec.kill(KILL_WITHIN_MS);
        const reason = this.#ending.signal.aborted ? this.#ending.signal.reason : error;
        outcome = { code: EXIT_KILLED, error: GodwitError.from(reason).message };
      }
      this.#input.unsubscribe();
      this.#send({ $case: "exit", value: outcome });
    } finally {
      this.#input?.unsubscribe();
      this.#resolveEnded(clean);
    }
  }

  async #transfer(exec: RuncExec): Promise<ExecOutcome> {
    const { signal } = this.#ending;
    const { promise: ending, reject } = Promise.withResolvers<never>();
    ending.catch(() => undefined);
    const onEnding = (): void => reject(signal.reason as Error);
    if (signal.aborted) onEnding();
    signal.addEventListener("abort", onEnding);
    const pumps = exec.outputs.map(({ kind, stream }) => this.#pump(kind, stream));
    try {
      await Promise.race([Promise.all(pumps), ending]);
      return await Promise.race([exec.exited, ending]);
    } finally {
      signal.removeEventListener("abort", onEnding);
    }
  }

  async #pump(kind: "stdout" | "stderr", stream: Readable): Promise<void> {
    const { signal } = this.#ending;
    try {
      // Not closed when we stop early: runc would die of it before it has reaped its process.
      for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        for (let sent = 0; sent < chunk.length;) {
          const bytes = await this.#credit.take(Math.min(chunk.length - sent, FRAME_BYTES), signal);
          this.#send({ $case: kind, value: chunk.subarray(sent, sent + bytes) });
          sent += bytes;
        }
      }
    } catch (error) {
      // How a terminal ends: its last user has closed it.
      if ((error as NodeJS.ErrnoException).code !== "EIO") throw error;
    }
  }

  #takeFrame(bytes: Uint8Array): void {
    if (this.#ending.signal.aborted) return;
    try {
      const { sequence, frame } = ExecFrame.decode(bytes);
      if (sequence === 0 && frame === undefined) return; // asks whether we are here
      this.#nextInput ??= Math.min(sequence, 1);
      if (sequence !== this.#nextInput) {
        throw new GodwitError(
          "unavailable",
          "a frame of the client was lost on its way; run the command again",
        );
      }
      this.#nextInput += 1;
      if (frame !== undefined) this.#act(frame);
    } catch (error) {
      this.end(GodwitError.from(error).message);
    }
  }

  #act(frame: Frame): void {
    const exec = this.#exec;
    if (exec === undefined) return;
    switch (frame.$case) {
      case "stdin":
        if (exec.input.pendingBytes + frame.value.length > INPUT_LIMIT_BYTES) {
          throw new GodwitError(
            "exhausted",
            `more than ${INPUT_LIMIT_BYTES} bytes of input wait for the process`,
          );
        }
        exec.input.write(frame.value, (taken) => this.#grantInput(taken));
        return;
      case "stdinClosed":
        if (frame.value) exec.input.end();
        return;
      case "resize":
        exec.resize(frame.value.rows, frame.value.columns);
        return;
      case "kill":
        if (frame.value) this.end("the client has gone");
        return;
      case "credit":
        this.#credit.grant(frame.value);
        return;
      case "stdout":
      case "stderr":
      case "exit":
        throw new GodwitError("invalid", `a client does not send '${frame.$case}'`);
    }
  }

  #grantInput(takenBytes: number): void {
    this.#untoldInputBytes += takenBytes;
    if (this.#untoldInputBytes < INPUT_CREDIT_STEP_BYTES || this.#ending.signal.aborted) return;
    try {
      this.#send({ $case: "credit", value: this.#untoldInputBytes });
      this.#untoldInputBytes = 0;
    } catch (error) {
      this.end(GodwitError.from(error).message);
    }
  }

  #send(frame: Frame): void {
    this.#outputSequence += 1;
    const bytes = ExecFrame.encode({ sequence: this.#outputSequence, frame }).finish();
    this.#options.connection.publish(this.outputSubject, bytes);
  }
}
