/** The API as async functions and iterables. Where there are several schedulers, calls find the one that leads. */
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import {
  connectivityState,
  credentials,
  InterceptingCall,
  Metadata,
  type ChannelCredentials,
  type ClientDuplexStream,
  type ClientReadableStream,
  type Interceptor,
  type MethodDefinition,
} from "@grpc/grpc-js";
import { GodwitClient, GodwitService } from "../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { apiAddress, type ApiAddress } from "./address.ts";
import { fromApi, GRPC, isCallFailure, isUnreachable, leaderElsewhere } from "./failure.ts";

/** A list of very many containers may be large; the API bounds what it sends by what there is. */
const MAX_ANSWER_BYTES = 256 * 2 ** 20;
/** A change of the leader takes seconds, one of nats-server's own a few more; after this long a call is given up. */
const PATIENCE_MS = 30_000;
const RETRY_MS = 250;
/** A call that takes longer may be to a scheduler that stands still: the others know whether it still leads. */
const STALL_MS = 2_000;
/** So often each scheduler is tried while none of them answers at all. */
const ROUNDS = 4;

type Methods = typeof GodwitService;
type UnaryName = {
  [M in keyof Methods]: Methods[M] extends { requestStream: false; responseStream: false } ? M : never;
}[keyof Methods];
type RequestOf<M extends UnaryName> = Parameters<Methods[M]["requestSerialize"]>[0];
type ResponseOf<M extends UnaryName> = ReturnType<Methods[M]["responseDeserialize"]>;

/** What changes nothing may be asked as often as one likes. */
const QUESTIONS = /^(status|leader|why|list|inspect|plan|get|balanceStatus)/;
/** Changes that the scheduler does once for all repetitions of one request. */
const ONCE: ReadonlySet<string> = new Set<UnaryName>([
  "run",
  "setDesired",
  "removeContainer",
  "removeImage",
  "removeNode",
  "move",
  "cancelMigration",
  "trustNodeKey",
  "setSchedulable",
  "cancelDrain",
  "cancelReturn",
  "applyServices",
  "scaleService",
  "rollBackService",
  "removeService",
  "createCheckpoint",
  "restoreCheckpoint",
  "removeCheckpoint",
  "setBalance",
  "runBalance",
  "setFailover",
  "setNodeLabels",
  "setProject",
  "removeProject",
  "setPlacementDefault",
]);
const REMOVALS: ReadonlySet<string> = new Set<UnaryName>([
  "removeContainer",
  "removeImage",
  "removeNode",
  "removeService",
  "removeCheckpoint",
  "removeProject",
]);

interface Endpoint {
  readonly target: string;
  readonly stub: GodwitClient;
}

/** The id of a request goes with it, so that it is done once however often it is sent. */
export function requestMetadata(): Metadata {
  const metadata = new Metadata();
  metadata.set("godwit-request", randomBytes(8).toString("hex"));
  return metadata;
}

export class ApiClient implements Disposable {
  readonly #endpoints: Endpoint[];
  #at = 0;

  constructor(addresses: readonly ApiAddress[]) {
    this.#endpoints = addresses.map((address) => this.#endpoint(address));
  }

  /** To the scheduler that leads, as far as is known; what a call shows otherwise, the next one follows. */
  get stub(): GodwitClient {
    const { stub } = this.#endpoints[this.#at] ?? {};
    if (stub === undefined) throw new GodwitError("internal", "there is no address of an API");
    return stub;
  }

  /** `await api.call("listNodes", {})` */
  async call<M extends UnaryName>(
    method: M,
    request: RequestOf<M>,
    patienceMs = PATIENCE_MS,
  ): Promise<ResponseOf<M>> {
    const metadata = requestMetadata();
    const giveUpMs = performance.now() + patienceMs;
    /** An earlier attempt may have been done without our hearing of it. */
    let ambiguous = false;
    let unanswered = 0;
    for (;;) {
      try {
        return await this.#once(method, request, metadata, giveUpMs);
      } catch (error) {
        if (error instanceof LeftBehind) {
          if (!QUESTIONS.test(method) && !ONCE.has(method))
            throw new GodwitError(
              "unavailable",
              `${error.message}; look whether it was done before you repeat it`,
            );
          ambiguous = true;
          continue;
        }
        const gone = isCallFailure(error) && error.code === GRPC.notFound && REMOVALS.has(method);
        if (ambiguous && gone) return definitionOf(method).responseDeserialize(Buffer.alloc(0));
        if (!isUnreachable(error) || performance.now() > giveUpMs) throw error;
        const elsewhere = leaderElsewhere(error);
        if (this.#endpoints.length === 1 && elsewhere?.length !== 0) throw error;
        if (elsewhere === undefined) {
          if (!QUESTIONS.test(method) && !ONCE.has(method)) throw error;
          ambiguous = true;
        }
        unanswered = isCallFailure(error) && fromApi(error) ? 0 : unanswered + 1;
        if (unanswered >= ROUNDS * this.#endpoints.length) throw error;
        // Where the leader is known, or another address not tried yet, at once.
        const hasNext = unanswered % this.#endpoints.length !== 0 || (elsewhere?.length ?? 0) > 0;
        if (!hasNext) await delay(RETRY_MS);
      }
    }
  }

  /** For calls that cannot be begun again: from here on `stub` is the leader's, as long as it leads. */
  async findLeader(): Promise<void> {
    try {
      await this.call("leader", {});
    } catch (error) {
      // One of before there were several schedulers: it leads.
      if (!isCallFailure(error) || error.code !== GRPC.unimplemented) throw error;
    }
  }

  /** What each scheduler that answers says. */
  async callEach<M extends UnaryName>(method: M, request: RequestOf<M>): Promise<ResponseOf<M>[]> {
    const answers: ResponseOf<M>[] = [];
    for (const { target } of [...this.#endpoints]) {
      using one = new ApiClient([apiAddress(target, process.env)]);
      try {
        answers.push(await one.call(method, request));
      } catch (error) {
        if (!isUnreachable(error)) throw error;
      }
    }
    return answers;
  }

  [Symbol.dispose](): void {
    for (const { stub } of this.#endpoints) stub.close();
  }

  async #once<M extends UnaryName>(
    method: M,
    request: RequestOf<M>,
    metadata: Metadata,
    giveUpMs: number,
  ): Promise<ResponseOf<M>> {
    const from = this.#endpoints[this.#at];
    const where = `the scheduler at ${from?.target ?? "its address"}`;
    const channel = this.stub.getChannel();
    let isLeft = false;
    let isSilent = false;
    const { answer, cancel } = send(this.stub, method, request, metadata);
    const watch = setInterval(() => {
      // Its kernel takes connections for a process that stands still; once it has answered, keepalive notices that.
      isSilent =
        performance.now() > giveUpMs && channel.getConnectivityState(false) !== connectivityState.READY;
      if (isSilent) cancel();
      void this.#leadsElsewhere(from).then((elsewhere) => {
        if (!elsewhere) return;
        isLeft = true;
        cancel();
      });
    }, STALL_MS);
    try {
      return await answer;
    } catch (error) {
      if (isLeft) throw new LeftBehind(`${where} does not answer`, { cause: error });
      if (isSilent)
        throw new GodwitError("unavailable", `${where} takes the connection and does not answer`, {
          cause: error,
        });
      throw error;
    } finally {
      clearInterval(watch);
    }
  }

  /** Asks the others; where one of them knows of another leader than `from`, calls go there from now on. */
  async #leadsElsewhere(from: Endpoint | undefined): Promise<boolean> {
    for (const [at, endpoint] of this.#endpoints.entries()) {
      if (endpoint === from) continue;
      try {
        await send(endpoint.stub, "leader", {}, new Metadata(), STALL_MS).answer;
        this.#at = at;
        return true;
      } catch (error) {
        const elsewhere = leaderElsewhere(error) ?? [];
        if (elsewhere.length === 0 || elsewhere.includes(from?.target ?? "")) continue;
        const known = this.#endpoints.findIndex(({ target }) => elsewhere.includes(target));
        if (known < 0) continue;
        this.#at = known;
        return true;
      }
    }
    return false;
  }

  #endpoint(address: ApiAddress): Endpoint {
    const { target } = address;
    const observer: Interceptor = (options, next) =>
      new InterceptingCall(next(options), {
        start: (metadata, _, begin) => {
          begin(metadata, {
            onReceiveStatus: (status, pass) => {
              if (status.code === GRPC.unavailable) this.#leave(target, status.metadata);
              pass(status);
            },
          });
        },
      });
    const stub = new GodwitClient(target, channelCredentials(address), {
      "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
      // A laptop that slept and a host that vanished are noticed while following something.
      "grpc.keepalive_time_ms": 5_000,
      "grpc.keepalive_timeout_ms": 5_000,
      "grpc.initial_reconnect_backoff_ms": RETRY_MS,
      "grpc.max_reconnect_backoff_ms": 1_000,
      interceptors: [observer],
    });
    return { target, stub };
  }

  /** Goes on at the leader that the one here has named, or else at the next address. */
  #leave(target: string, metadata: Metadata): void {
    if (this.#endpoints[this.#at]?.target !== target) return; // a call of before
    const [named] = metadata.get("godwit-leader");
    const elsewhere = (typeof named === "string" ? named.split(",") : []).filter((one) => one !== target);
    const known = this.#endpoints.findIndex((endpoint) => elsewhere.includes(endpoint.target));
    const reachable = elsewhere.find((one) => canReach(one, target));
    if (known >= 0) this.#at = known;
    else if (reachable !== undefined)
      this.#at = this.#endpoints.push(this.#endpoint(apiAddress(reachable, process.env))) - 1;
    else this.#at = (this.#at + 1) % this.#endpoints.length;
  }
}

/** A call was given up because another scheduler leads meanwhile. */
class LeftBehind extends Error {}

function send<M extends UnaryName>(
  stub: GodwitClient,
  method: M,
  request: RequestOf<M>,
  metadata: Metadata,
  withinMs = Infinity,
): { readonly answer: Promise<ResponseOf<M>>; readonly cancel: () => void } {
  const { path, requestSerialize, responseDeserialize } = definitionOf(method);
  const { promise, resolve, reject } = Promise.withResolvers<ResponseOf<M>>();
  const call = stub.makeUnaryRequest(
    path,
    requestSerialize,
    responseDeserialize,
    request,
    metadata,
    { deadline: Date.now() + withinMs },
    (error, response) => {
      if (error !== null) reject(error);
      else if (response === undefined)
        reject(new GodwitError("internal", `the API answered ${path} with nothing`));
      else resolve(response);
    },
  );
  return { answer: promise, cancel: () => call.cancel() };
}

const definitionOf = <M extends UnaryName>(method: M): MethodDefinition<RequestOf<M>, ResponseOf<M>> =>
  GodwitService[method] as unknown as MethodDefinition<RequestOf<M>, ResponseOf<M>>;

/** A socket's path is one of this machine's only if the one that names it is on this machine too. */
function canReach(elsewhere: string, from: string): boolean {
  if (elsewhere.startsWith("unix:"))
    return from.startsWith("unix:") && existsSync(elsewhere.slice("unix:".length));
  try {
    apiAddress(elsewhere, process.env);
    return true;
  } catch {
    return false; // it is on another host, and there are no certificates to reach it with
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
