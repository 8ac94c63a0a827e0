/**
 * Between grpc-js's callbacks and async functions. Handlers take requests and an AbortSignal (the client went away,
 * its deadline passed, the server stops) and return or yield; errors leave through status.ts and nowhere else.
 */
import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  ServerDuplexStream,
  ServerReadableStream,
  ServerWritableStream,
} from "@grpc/grpc-js";
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { statusOf } from "./status.ts";

export type Unary<Q, R> = (request: Q, signal: AbortSignal) => Promise<R>;
export type ServerStream<Q, R> = (request: Q, signal: AbortSignal) => AsyncIterable<R>;
export type ClientStream<Q, R> = (requests: AsyncIterable<Q>, signal: AbortSignal) => Promise<R>;
export type Duplex<Q, R> = (requests: AsyncIterable<Q>, signal: AbortSignal) => AsyncIterable<R>;

export class Calls {
  readonly #logger: Logger;
  readonly #stopping: AbortSignal;

  /** `stopping` ends every call that is still open. */
  constructor(logger: Logger, stopping: AbortSignal) {
    this.#logger = logger;
    this.#stopping = stopping;
  }

  unary<Q, R>(handler: Unary<Q, R>): handleUnaryCall<Q, R> {
    return (call, callback) => {
      const signal = this.#signalOf(call);
      handler(call.request, signal).then(
        (response) => callback(null, response),
        (error: unknown) => callback(statusOf(this.#seen(error, call.getPath()))),
      );
    };
  }

  clientStream<Q, R>(handler: ClientStream<Q, R>): handleClientStreamingCall<Q, R> {
    return (call, callback) => {
      const signal = this.#signalOf(call);
      handler(requestsOf<Q>(call, signal), signal).then(
        (response) => callback(null, response),
        (error: unknown) => callback(statusOf(this.#seen(error, call.getPath()))),
      );
    };
  }

  serverStream<Q, R>(handler: ServerStream<Q, R>): handleServerStreamingCall<Q, R> {
    return (call) => {
      const signal = this.#signalOf(call);
      void this.#send(call, () => handler(call.request, signal), signal);
    };
  }

  duplex<Q, R>(handler: Duplex<Q, R>): handleBidiStreamingCall<Q, R> {
    return (call) => {
      const signal = this.#signalOf(call);
      void this.#send(call, () => handler(requestsOf<Q>(call, signal), signal), signal);
    };
  }

  async #send<Q, R>(
    call: ServerWritableStream<Q, R> | ServerDuplexStream<Q, R>,
    responses: () => AsyncIterable<R>,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      for await (const response of responses()) {
        if (signal.aborted) break;
        if (!call.write(response)) await drained(call, signal);
      }
      if (this.#stopping.aborted) throw stopped();
      call.end();
    } catch (error) {
      const failure = statusOf(this.#seen(error, call.getPath()));
      if (call.cancelled) return;
      // "error" is how grpc-js wants a streaming call to fail with a status.
      call.emit("error", failure);
    }
  }

  #signalOf(call: {
    on(event: "cancelled", listener: () => void): unknown;
    cancelled: boolean;
  }): AbortSignal {
    const controller = new AbortController();
    call.on("cancelled", () => controller.abort(new GodwitError("cancelled", "the client went away")));
    if (call.cancelled) controller.abort(new GodwitError("cancelled", "the client went away"));
    return AbortSignal.any([controller.signal, this.#stopping]);
  }

  #seen(value: unknown, path: string): GodwitError {
    if (this.#stopping.aborted) return stopped();
    const error = GodwitError.from(value);
    if (error.code === "internal") this.#logger.error({ err: value, path }, "a call failed unexpectedly");
    else
      this.#logger.debug({ path, code: error.code, reason: error.message }, "a call was refused or failed");
    return error;
  }
}

const stopped = (): GodwitError =>
  new GodwitError("unavailable", "the API is stopping; try again in a moment");

/** Resolves when the call takes more, or the signal aborts. */
function drained(
  call: {
    once(event: "drain", listener: () => void): unknown;
    off(event: "drain", listener: () => void): unknown;
  },
  signal: AbortSignal,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const done = (): void => {
    call.off("drain", done);
    signal.removeEventListener("abort", done);
    resolve();
  };
  call.once("drain", done);
  signal.addEventListener("abort", done, { once: true });
  if (signal.aborted) done();
  return promise;
}

/**
 * grpc-js ends the stream of a client that vanished just like that of one that has said all; this tells them apart.
 * Leaving the loop early must not destroy the call: responses still have to go out.
 */
async function* requestsOf<Q>(
  call: ServerReadableStream<Q, unknown> | ServerDuplexStream<Q, unknown>,
  signal: AbortSignal,
): AsyncGenerator<Q> {
  const iterator = call.iterator({ destroyOnReturn: false });
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  aborted.catch(() => undefined); // it may abort when nobody is waiting any more
  const onAbort = (): void => reject(GodwitError.from(signal.reason, "cancelled"));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      signal.throwIfAborted();
      const next = (await Promise.race([iterator.next(), aborted])) as IteratorResult<Q>;
      if (next.done === true) break;
      yield next.value;
    }
    signal.throwIfAborted();
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
