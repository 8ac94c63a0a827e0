/**
 * Between grpc-js's callbacks and async functions. Handlers take requests and an AbortSignal (the client went away,
 * its deadline passed, the server stops) and return or yield; errors leave through status.ts and nowhere else.
 */
import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  Metadata,
  ServerDuplexStream,
  ServerReadableStream,
  ServerWritableStream,
} from "@grpc/grpc-js";
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { withRequest } from "../../scheduler/mod.ts";
import type { LeaderGate } from "./leader-gate.ts";
import { statusOf } from "./status.ts";

export type Unary<Q, R> = (request: Q, signal: AbortSignal) => Promise<R>;
export type ServerStream<Q, R> = (request: Q, signal: AbortSignal) => AsyncIterable<R>;
export type ClientStream<Q, R> = (requests: AsyncIterable<Q>, signal: AbortSignal) => Promise<R>;
export type Duplex<Q, R> = (requests: AsyncIterable<Q>, signal: AbortSignal) => AsyncIterable<R>;

export class Calls {
  readonly #logger: Logger;
  readonly #stopping: AbortSignal;
  readonly #gate: LeaderGate;
  #open = 0;
  #idle: PromiseWithResolvers<void> | undefined;

  /** `stopping` ends every call that is still open. */
  constructor(logger: Logger, stopping: AbortSignal, gate: LeaderGate) {
    this.#gate = gate;
    this.#logger = logger;
    this.#stopping = stopping;
  }

  /** A question: answered from what is certainly not out of date. */
  unary<Q, R>(handler: Unary<Q, R>): handleUnaryCall<Q, R> {
    return this.anywhere(async (request, signal) => {
      await this.#gate.enter(signal);
      return handler(request, signal);
    });
  }

  /** A change: its place in the log shows that it was not made on old knowledge; a refusal has to make sure of that. */
  change<Q, R>(handler: Unary<Q, R>): handleUnaryCall<Q, R> {
    return this.anywhere(async (request, signal) => {
      this.#gate.look();
      try {
        return await handler(request, signal);
      } catch (error) {
        if (GodwitError.from(error).code !== "unavailable") await this.#gate.enter(signal);
        throw error;
      }
    });
  }

  /** A call that every scheduler answers. */
  anywhere<Q, R>(handler: Unary<Q, R>): handleUnaryCall<Q, R> {
    return (call, callback) => {
      const signal = this.#signalOf(call);
      this.#work(call, () => handler(call.request, signal)).then(
        (response) => callback(null, response),
        (error: unknown) => callback(statusOf(this.#seen(error, call.getPath()))),
      );
    };
  }

  clientStream<Q, R>(handler: ClientStream<Q, R>): handleClientStreamingCall<Q, R> {
    return (call, callback) => {
      const signal = this.#signalOf(call);
      const work = async (): Promise<R> => {
        await this.#gate.enter(signal);
        return handler(requestsOf<Q>(call, signal), signal);
      };
      this.#work(call, work).then(
        (response) => callback(null, response),
        (error: unknown) => callback(statusOf(this.#seen(error, call.getPath()))),
      );
    };
  }

  /** Goes on where this scheduler leads no more: what it tells, it knows all the same. */
  serverStream<Q, R>(handler: ServerStream<Q, R>): handleServerStreamingCall<Q, R> {
    return (call) => {
      const signal = this.#signalOf(call);
      void this.#send(call, () => handler(call.request, signal), signal);
    };
  }

  /** Ends, and says where to go on, where this scheduler leads no more. */
  leaderStream<Q, R>(handler: ServerStream<Q, R>): handleServerStreamingCall<Q, R> {
    return (call) => {
      const { term } = this.#gate;
      const signal = AbortSignal.any([this.#signalOf(call), term]);
      void this.#send(call, () => handler(call.request, signal), signal, term);
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
    term?: AbortSignal,
  ): Promise<void> {
    try {
      await this.#work(call, async () => {
        await this.#gate.enter(signal);
        for await (const response of responses()) {
          if (signal.aborted) break;
          if (!call.write(response)) await drained(call, signal);
        }
      });
      if (this.#stopping.aborted) throw stopped();
      term?.throwIfAborted();
      call.end();
    } catch (error) {
      const failure = statusOf(this.#seen(term?.aborted === true ? term.reason : error, call.getPath()));
      if (call.cancelled) return;
      // "error" is how grpc-js wants a streaming call to fail with a status.
      call.emit("error", failure);
    }
  }

  /** Resolves when no call is open. */
  idle(): Promise<void> {
    if (this.#open === 0) return Promise.resolve();
    this.#idle ??= Promise.withResolvers<void>();
    return this.#idle.promise;
  }

  /** With the id that the client has given its request. */
  async #work<T>(call: { readonly metadata: Metadata }, work: () => Promise<T>): Promise<T> {
    const [id] = call.metadata.get("godwit-request");
    this.#open += 1;
    try {
      return id === undefined ? await work() : await withRequest(String(id), work);
    } finally {
      this.#open -= 1;
      if (this.#open === 0) this.#idle?.resolve();
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
