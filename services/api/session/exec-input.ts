/** Frames from the client to the agent of one exec session. */
import { NoRespondersError, RequestError, type NatsConnection } from "@nats-io/transport-node";
import { ExecFrame } from "../../../proto/gen/godwit/v1/agent.ts";
import type { ExecRequest } from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";

/** Well below the server's limit for a message. */
const FRAME_BYTES = 128 * 1024;
const PROBE_TIMEOUT_MS = 1_000;

export class AgentInput {
  readonly #connection: NatsConnection;
  readonly #subject: string;
  #sequence = 0;
  /** Bytes of input that the agent takes now; undefined while it has not said anything about it. */
  #window: number | undefined;
  #onGrant: (() => void) | undefined;

  constructor(connection: NatsConnection, subject: string) {
    this.#connection = connection;
    this.#subject = subject;
  }

  /** `bytes` of output were taken. */
  credit(bytes: number): void {
    this.#send({ $case: "credit", value: bytes });
  }

  kill(): void {
    if (!this.#connection.isClosed()) this.#send({ $case: "kill", value: true });
  }

  /** The agent takes `bytes` more of input. */
  granted(bytes: number): void {
    this.#window = (this.#window ?? 0) + bytes;
    this.#onGrant?.();
  }

  /** False when nobody is subscribed to the session's input. */
  async isHeard(): Promise<boolean> {
    const nothing = ExecFrame.encode({
      sequence: this.#sequence++,
      frame: { $case: "credit", value: 0 },
    }).finish();
    try {
      await this.#connection.request(this.#subject, nothing, { timeout: PROBE_TIMEOUT_MS });
      return true;
    } catch (error) {
      // Agents do not answer frames: silence is the good case.
      return !(
        error instanceof NoRespondersError ||
        (error instanceof RequestError && error.isNoResponders())
      );
    }
  }

  /** Sends on what the client sends until it has said all or `over` aborts. */
  async relay(parts: AsyncIterator<ExecRequest>, stdin: boolean, over: AbortSignal): Promise<void> {
    const { promise: ended, resolve } = Promise.withResolvers<undefined>();
    over.addEventListener("abort", () => resolve(undefined), { once: true });
    let open = stdin;
    while (!over.aborted) {
      const next = await Promise.race([parts.next(), ended]);
      if (next === undefined) return;
      if (next.done === true) break;
      const { part } = next.value;
      switch (part?.$case) {
        case "stdin":
          if (!open)
            throw new GodwitError(
              "invalid",
              "input was sent to a command that was started without it, or after its end",
            );
          await this.#stdin(part.value, over);
          break;
        case "stdinClosed":
          if (open) this.#send({ $case: "stdinClosed", value: true });
          open = false;
          break;
        case "resize":
          this.#send({ $case: "resize", value: part.value });
          break;
        case "start":
          throw new GodwitError("invalid", "a command is started once");
        case undefined:
          break;
      }
    }
    if (open && !over.aborted) this.#send({ $case: "stdinClosed", value: true });
  }

  async #stdin(data: Buffer, over: AbortSignal): Promise<void> {
    for (let from = 0; from < data.length;) {
      while (this.#window !== undefined && this.#window <= 0) {
        if (over.aborted) return;
        const { promise, resolve } = Promise.withResolvers<void>();
        const wake = (): void => resolve();
        this.#onGrant = wake;
        over.addEventListener("abort", wake, { once: true });
        await promise;
        over.removeEventListener("abort", wake);
      }
      if (over.aborted) return;
      const length = Math.min(data.length - from, FRAME_BYTES, this.#window ?? Number.POSITIVE_INFINITY);
      this.#send({ $case: "stdin", value: data.subarray(from, from + length) });
      if (this.#window !== undefined) this.#window -= length;
      from += length;
    }
    // Waits until the server has taken it, so that a fast client does not fill the connection's buffer.
    await this.#connection.flush();
  }

  #send(frame: NonNullable<ExecFrame["frame"]>): void {
    this.#connection.publish(this.#subject, ExecFrame.encode({ sequence: this.#sequence++, frame }).finish());
  }
}
