import { connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import type {
  AttachAnswer,
  AttachRequest,
  ContainerStatus,
  DetachAnswer,
  ExitEvent,
  HelloEvent,
  SetInitRequest,
  ShimAnswer,
  ShimEvent,
  ShimRequest,
} from "./protocol.ts";

const FIRST_RETRY_MS = 50;
const LONGEST_RETRY_MS = 1_000;
/** One that was started again has all containers by then. */
const BACK_WITHIN_MS = 5_000;

interface Waiting {
  readonly resolve: (answer: ShimAnswer & { ok: true }) => void;
  readonly reject: (error: GodwitError) => void;
}

/**
 * An agent's side of the shim's socket. It connects again by itself when the shim has gone; requests under way
 * then fail as "unavailable" and may be repeated: every one of them is idempotent.
 */
export class ShimClient implements Disposable {
  /**
   * How containers ended, each exit once, including those that the shim had recorded before this client came and
   * while it was away. For one consumer; ends with the client.
   */
  readonly exits: AsyncIterable<ExitEvent>;
  /**
   * Each shim that answers, the first one included: a new shimPid means that all containers must be attached again.
   * For one consumer; ends with the client.
   */
  readonly shims: AsyncIterable<HelloEvent>;
  readonly #path: string;
  readonly #exits = new EventQueue<ExitEvent>();
  readonly #shims = new EventQueue<HelloEvent>();
  /** By container: the newest exit that was told. */
  readonly #told = new Map<string, string>();
  readonly #waiting = new Map<number, Waiting>();
  #shim: HelloEvent | undefined;
  #socket: Socket | undefined;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = FIRST_RETRY_MS;
  #lastId = 0;
  #closed = false;
  #onConnected: (() => void) | undefined;

  private constructor(path: string) {
    this.#path = path;
    this.exits = this.#exits;
    this.shims = this.#shims;
  }

  /** Waits until a shim answers. `signal` ends the wait, and afterwards the client. */
  static async connect(path: string, signal: AbortSignal): Promise<ShimClient> {
    signal.throwIfAborted();
    const client = new ShimClient(path);
    const connected = Promise.withResolvers<void>();
    client.#onConnected = connected.resolve;
    signal.addEventListener("abort", () => {
      client[Symbol.dispose]();
      connected.reject(new GodwitError("cancelled", `no shim answered on ${path}`));
    });
    client.#connect();
    await connected.promise;
    return client;
  }

  /** The shim that answers now, or answered last. */
  get shim(): HelloEvent | undefined {
    return this.#shim;
  }

  async attach(request: Omit<AttachRequest, "op">): Promise<AttachAnswer> {
    const { offset } = await this.#request({ op: "attach", ...request });
    return { offset: offset ?? 0 };
  }

  async setInit(request: Omit<SetInitRequest, "op">): Promise<void> {
    await this.#request({ op: "setInit", ...request });
  }

  /** Freeze the container first: only then is what detach reads all that it wrote. */
  async detach(container: string): Promise<DetachAnswer> {
    const { partial, offset } = await this.#request({ op: "detach", container });
    return { partial: partial ?? { o: "", e: "" }, offset: offset ?? 0 };
  }

  async status(): Promise<readonly ContainerStatus[]> {
    return (await this.#request({ op: "status" })).containers ?? [];
  }

  /** Resolves when the shim reads this container's output: after a restart of it, the agent has to attach it first. */
  async reads(container: string, signal: AbortSignal): Promise<void> {
    const deadlineMs = performance.now() + BACK_WITHIN_MS;
    for (;;) {
      const all = await this.status().catch((): readonly ContainerStatus[] => []);
      if (all.some((one) => one.container === container)) return;
      if (performance.now() > deadlineMs) throw gone();
      await delay(FIRST_RETRY_MS, undefined, { signal });
    }
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#socket?.destroy();
    this.#failAll();
    this.#exits.end();
    this.#shims.end();
  }

  #request(request: ShimRequest): Promise<ShimAnswer & { ok: true }> {
    const socket = this.#socket;
    if (socket === undefined) return Promise.reject(gone());
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      socket.write(`${JSON.stringify({ id, ...request })}\n`);
    });
  }

  #connect(): void {
    const socket = connect(this.#path);
    socket.setEncoding("utf8");
    let pending = "";
    socket.on("data", (text: string) => {
      pending += text;
      for (let end = pending.indexOf("\n"); end >= 0; end = pending.indexOf("\n")) {
        this.#take(socket, JSON.parse(pending.slice(0, end)) as ShimAnswer | ShimEvent);
        pending = pending.slice(end + 1);
      }
    });
    socket.on("error", () => undefined); // "close" follows
    socket.on("close", () => {
      if (this.#socket === socket) this.#socket = undefined;
      this.#failAll();
      if (this.#closed) return;
      this.#retry = setTimeout(() => this.#connect(), this.#retryMs);
      this.#retryMs = Math.min(this.#retryMs * 2, LONGEST_RETRY_MS);
    });
  }

  #take(socket: Socket, message: ShimAnswer | ShimEvent): void {
    if ("event" in message) {
      if (message.event === "exit") this.#tellExit(message);
      else this.#welcome(socket, message);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.ok) waiting?.resolve(message);
    else waiting?.reject(new GodwitError(message.code, message.error));
  }

  #welcome(socket: Socket, hello: HelloEvent): void {
    this.#socket = socket;
    this.#retryMs = FIRST_RETRY_MS;
    const isNew = this.#shim?.shimPid !== hello.shimPid || this.#shim.startedAtMs !== hello.startedAtMs;
    this.#shim = hello;
    if (isNew) this.#shims.push(hello);
    this.#onConnected?.();
    this.status().then(
      (containers) => {
        for (const { container, initPid, exit } of containers) {
          if (exit !== undefined) this.#tellExit({ event: "exit", container, initPid, ...exit });
        }
      },
      () => undefined, // gone again already: the next connection asks anew
    );
  }

  #tellExit(exit: ExitEvent): void {
    const key = `${exit.initPid} ${exit.atMs}`;
    if (this.#told.get(exit.container) === key) return;
    this.#told.set(exit.container, key);
    this.#exits.push(exit);
  }

  #failAll(): void {
    for (const { reject } of this.#waiting.values()) reject(gone());
    this.#waiting.clear();
  }
}

function gone(): GodwitError {
  return new GodwitError("unavailable", "the shim does not answer; it is being connected to again");
}

class EventQueue<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  #wake: (() => void) | undefined;
  #ended = false;

  push(item: T): void {
    this.#items.push(item);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, void> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) yield item;
      else if (this.#ended) return;
      else {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#wake = resolve;
        await promise;
      }
    }
  }
}
