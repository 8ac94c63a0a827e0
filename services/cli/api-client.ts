/** The API as async functions and iterables. */
import { readFileSync } from "node:fs";
import {
  credentials,
  type ChannelCredentials,
  type ClientDuplexStream,
  type ClientReadableStream,
  type MethodDefinition,
} from "@grpc/grpc-js";
import { GodwitClient, GodwitService } from "../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import type { ApiAddress } from "./address.ts";

/** A list of very many containers may be large; the API bounds what it sends by what there is. */
const MAX_ANSWER_BYTES = 256 * 2 ** 20;

type Methods = typeof GodwitService;
type UnaryName = {
  [M in keyof Methods]: Methods[M] extends { requestStream: false; responseStream: false } ? M : never;
}[keyof Methods];
type RequestOf<M extends UnaryName> = Parameters<Methods[M]["requestSerialize"]>[0];
type ResponseOf<M extends UnaryName> = ReturnType<Methods[M]["responseDeserialize"]>;

export class ApiClient implements Disposable {
  readonly stub: GodwitClient;

  constructor(address: ApiAddress) {
    this.stub = new GodwitClient(address.target, channelCredentials(address), {
      "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
      // A laptop that slept and a host that vanished are noticed while following something.
      "grpc.keepalive_time_ms": 30_000,
      "grpc.keepalive_timeout_ms": 10_000,
    });
  }

  /** `await api.call("listNodes", {})` */
  call<M extends UnaryName>(method: M, request: RequestOf<M>): Promise<ResponseOf<M>> {
    const { path, requestSerialize, responseDeserialize } = GodwitService[
      method
    ] as unknown as MethodDefinition<RequestOf<M>, ResponseOf<M>>;
    const { promise, resolve, reject } = Promise.withResolvers<ResponseOf<M>>();
    this.stub.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, (error, response) => {
      if (error !== null) reject(error);
      else if (response === undefined)
        reject(new GodwitError("internal", `the API answered ${path} with nothing`));
      else resolve(response);
    });
    return promise;
  }

  [Symbol.dispose](): void {
    this.stub.close();
  }
}

/** The messages of a call; leaving the loop, or the signal, cancels it. Throws its status when that is an error. */
export async function* messagesOf<R, Q = never>(
  call: ClientReadableStream<R> | ClientDuplexStream<Q, R>,
  signal?: AbortSignal,
): AsyncGenerator<R> {
  const onAbort = (): void => call.cancel();
  signal?.addEventListener("abort", onAbort, { once: true });
  if (signal?.aborted === true) call.cancel();
  let ended = false;
  try {
    for await (const message of call) yield message as R;
    ended = true;
  } finally {
    signal?.removeEventListener("abort", onAbort);
    if (!ended) {
      // The cancellation that follows is our own doing and nobody's news.
      call.on("error", () => undefined);
      call.cancel();
    }
  }
}

function channelCredentials(address: ApiAddress): ChannelCredentials {
  const { tls } = address;
  if (tls === undefined) return credentials.createInsecure();
  try {
    return credentials.createSsl(readFileSync(tls.ca), readFileSync(tls.key), readFileSync(tls.cert));
  } catch (error) {
    throw new GodwitError(
      "invalid",
      `the TLS files of $GODWIT_TLS_CA, _CERT and _KEY cannot be used: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}

/** Resolves when a call takes more requests, or will never take any again. */
export async function untilWritable(call: {
  on(event: string, listener: () => void): unknown;
  off(event: string, listener: () => void): unknown;
}): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const done = (): void => resolve();
  // A call that the API ended says so in one of these ways, and never drains.
  const events = ["drain", "close", "error", "status"];
  for (const event of events) call.on(event, done);
  await promise;
  for (const event of events) call.off(event, done);
}
