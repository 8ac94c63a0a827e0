/** Core NATS between simulated processes: at most once, in whatever order the seed says. */
import {
  NoRespondersError,
  RequestError,
  TimeoutError,
  type Msg,
  type MsgHdrs,
  type NatsConnection,
  type Status,
} from "@nats-io/transport-node";
import {
  ALL_REPORTS_SUBJECT,
  CONTAINER_GONE_SUBJECT,
  desiredSubject,
  SCHEDULER_BEAT_SUBJECT,
  SCHEDULER_LEADER_SUBJECT,
} from "../../proto/contract/subjects.ts";
import type { Conditions } from "./conditions.ts";
import type { Random } from "./random.ts";
import type { Process, World } from "./world.ts";

interface Outgoing {
  readonly subject: string;
  readonly data: Uint8Array;
  readonly reply: string | undefined;
  readonly headers: MsgHdrs | undefined;
}

const MAX_PAYLOAD = 1024 * 1024;
/** A client notices that its server is gone after this. */
const NOTICE_MS = 800;

const matches = (pattern: string, subject: string): boolean => {
  if (pattern === subject) return true;
  const wanted = pattern.split(".");
  const given = subject.split(".");
  for (const [at, token] of wanted.entries()) {
    if (token === ">") return given.length > at;
    if (given[at] === undefined || (token !== "*" && token !== given[at])) return false;
  }
  return wanted.length === given.length;
};

const ANSWER = "_INBOX";
const KINDS: readonly (readonly [pattern: string, kind: string])[] = [
  [ALL_REPORTS_SUBJECT, "report"],
  [desiredSubject("*"), "order"],
  [SCHEDULER_BEAT_SUBJECT, "beat"],
  [SCHEDULER_LEADER_SUBJECT, "question for the leader"],
  [CONTAINER_GONE_SUBJECT, "farewell"],
];
const kindOf = (subject: string): string =>
  subject.startsWith(`${ANSWER}.`)
    ? `answer to a ${subject.split(".")[1] ?? ""}`
    : (KINDS.find(([pattern]) => matches(pattern, subject))?.[1] ?? "other");

/** Messages at one connection, as a callback or to be iterated over. */
class Subscription {
  readonly pattern: string;
  /** What every subject begins with that it hears, when a last token is all that it leaves open. */
  readonly #prefix: string | undefined;
  readonly #isExact: boolean;
  readonly #waiting: Msg[] = [];
  #wake = Promise.withResolvers<void>();
  #ended = false;
  readonly #callback: ((error: null, message: Msg) => void) | undefined;
  readonly #onEnd: () => void;

  constructor(
    pattern: string,
    callback: ((error: null, message: Msg) => void) | undefined,
    onEnd: () => void,
  ) {
    this.pattern = pattern;
    this.#isExact = !/[*>]/.test(pattern);
    this.#prefix = /^[^*>]+\.\*$/.test(pattern) ? pattern.slice(0, -1) : undefined;
    this.#callback = callback;
    this.#onEnd = onEnd;
  }
  hears(subject: string): boolean {
    if (this.#isExact) return this.pattern === subject;
    const prefix = this.#prefix;
    if (prefix === undefined) return matches(this.pattern, subject);
    return subject.startsWith(prefix) && !subject.includes(".", prefix.length);
  }
  take(message: Msg): void {
    if (this.#callback !== undefined) {
      this.#callback(null, message);
      return;
    }
    this.#waiting.push(message);
    this.#wake.resolve();
  }
  unsubscribe(): void {
    this.#ended = true;
    this.#onEnd();
    this.#wake.resolve();
  }
  async *[Symbol.asyncIterator](): AsyncGenerator<Msg> {
    while (!this.#ended) {
      const next = this.#waiting.shift();
      if (next !== undefined) {
        yield next;
        continue;
      }
      await this.#wake.promise;
      this.#wake = Promise.withResolvers();
    }
  }
}

/** The way between one process and the NATS servers. */
export class Link {
  /** Nothing gets through. */
  cut = false;
  /** The client has noticed, and keeps what it is to send. */
  noticed = false;
}

export class SimConnection {
  readonly owner: Process;
  readonly link = new Link();
  readonly subscriptions = new Set<Subscription>();
  readonly info = { max_payload: MAX_PAYLOAD, server_name: "simulated" };
  readonly #bus: Bus;
  readonly #outbox: Outgoing[] = [];
  readonly #statuses: Status[] = [];
  #statusWake = Promise.withResolvers<void>();
  readonly #nobody = new Map<string, () => void>();
  #closed = false;
  #inboxes = 0;

  constructor(bus: Bus, owner: Process) {
    this.#bus = bus;
    this.owner = owner;
  }

  subscribe(pattern: string, options: { callback?: (error: null, message: Msg) => void } = {}): Subscription {
    const subscription = new Subscription(pattern, options.callback, () =>
      this.subscriptions.delete(subscription),
    );
    this.subscriptions.add(subscription);
    return subscription;
  }

  publish(
    subject: string,
    data: Uint8Array | string = new Uint8Array(),
    options: { reply?: string; headers?: MsgHdrs } = {},
  ): void {
    if (this.#closed) throw new Error("closed connection");
    const bytes = typeof data === "string" ? Buffer.from(data) : data;
    if (bytes.length > MAX_PAYLOAD) throw new Error("max_payload size exceeded");
    const outgoing = { subject, data: bytes, reply: options.reply, headers: options.headers };
    if (this.link.noticed) this.#outbox.push(outgoing);
    else this.#bus.send(this, outgoing);
  }

  async request(
    subject: string,
    data?: Uint8Array | string,
    options: { timeout?: number } = {},
  ): Promise<Msg> {
    const inbox = `${ANSWER}.${kindOf(subject)}.${this.owner.name}.${(this.#inboxes += 1)}`;
    const { promise, resolve, reject } = Promise.withResolvers<Msg>();
    const subscription = this.subscribe(inbox, { callback: (_, message) => resolve(message) });
    const timer = setTimeout(() => reject(new TimeoutError()), options.timeout ?? 1_000);
    this.#nobody.set(inbox, () =>
      reject(new RequestError("no responders", { cause: new NoRespondersError(subject) })),
    );
    try {
      this.publish(subject, data, { reply: inbox });
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#nobody.delete(inbox);
      subscription.unsubscribe();
    }
  }

  /** The server knows of nobody who listens. */
  nobody(inbox: string): void {
    this.#nobody.get(inbox)?.();
  }

  isClosed(): boolean {
    return this.#closed;
  }
  async close(): Promise<void> {
    this.#closed = true;
    this.subscriptions.clear();
    this.#statusWake.resolve();
    await Promise.resolve();
  }
  async flush(): Promise<void> {
    await Promise.resolve();
  }
  async drain(): Promise<void> {
    await this.close();
  }
  getServer(): string {
    return "simulated";
  }

  async *status(): AsyncGenerator<Status> {
    while (!this.#closed) {
      const next = this.#statuses.shift();
      if (next !== undefined) {
        yield next;
        continue;
      }
      await this.#statusWake.promise;
      this.#statusWake = Promise.withResolvers();
    }
  }

  /** The link went down for the client to see. */
  notice(): void {
    if (!this.link.cut || this.link.noticed || this.#closed) return;
    this.link.noticed = true;
    this.#tell({ type: "disconnect", server: "simulated" });
  }
  reconnect(): void {
    if (!this.link.noticed || this.#closed) return;
    this.link.noticed = false;
    this.#tell({ type: "reconnect", server: "simulated" });
    for (const outgoing of this.#outbox.splice(0)) this.#bus.send(this, outgoing);
  }
  #tell(status: Status): void {
    this.#statuses.push(status);
    this.#statusWake.resolve();
  }

  /** What the code under test knows it as. */
  asNats(): NatsConnection {
    return this as unknown as NatsConnection;
  }
}

export class Bus {
  readonly #world: World;
  readonly #conditions: Conditions;
  readonly #random: Random;
  readonly connections = new Set<SimConnection>();
  /** Of ordered delivery: when the last message from one to the other arrives. */
  readonly #lastArrival = new Map<string, number>();

  constructor(world: World, conditions: Conditions) {
    this.#world = world;
    this.#conditions = conditions;
    this.#random = world.random.fork("bus");
  }

  connect(owner: Process): SimConnection {
    const connection = new SimConnection(this, owner);
    this.connections.add(connection);
    return connection;
  }
  forget(owner: Process): void {
    for (const connection of this.connections)
      if (connection.owner === owner) this.connections.delete(connection);
  }
  of(owner: Process): SimConnection | undefined {
    return [...this.connections].find((connection) => connection.owner === owner);
  }

  cut(connection: SimConnection): void {
    connection.link.cut = true;
    this.#world.after(NOTICE_MS, connection.owner, () => connection.notice());
  }
  heal(connection: SimConnection): void {
    connection.link.cut = false;
    this.#world.after(this.#random.between(10, 200), connection.owner, () => connection.reconnect());
  }

  send(from: SimConnection, { subject, data, reply, headers }: Outgoing): void {
    if (from.link.cut) return;
    // The sender may use its buffer again.
    const bytes = Buffer.from(data);
    const kind = kindOf(subject);
    let isHeard = false;
    for (const to of this.connections)
      for (const subscription of to.subscriptions) {
        if (!subscription.hears(subject)) continue;
        isHeard = true;
        const { loss, duplication } = this.#conditions;
        const copies = this.#random.chance(loss) ? 0 : this.#random.chance(duplication) ? 2 : 1;
        if (copies !== 1) {
          this.#world.trace(`${copies === 0 ? "lost" : "twice"} ${subject} to ${to.owner.name}`);
          this.#conditions.befalls(kind, copies === 0 ? "lost" : "doubled");
        }
        for (let copy = 0; copy < copies; copy += 1)
          this.#deliver(kind, from, to, () => {
            if (!to.subscriptions.has(subscription)) return;
            this.#world.trace(`${from.owner.name} -> ${to.owner.name} ${subject} ${bytes.length}`);
            subscription.take(this.#message(to, subject, bytes, reply, headers));
          });
      }
    if (!isHeard && reply !== undefined) this.#deliver(kind, from, from, () => from.nobody(reply));
  }

  #deliver(kind: string, from: SimConnection, to: SimConnection, run: () => void): void {
    const between = `${from.owner.name}>${to.owner.name}`;
    let atMs = this.#world.nowMs + this.#conditions.delayMs(this.#random, kind);
    const last = this.#lastArrival.get(between) ?? 0;
    if (!this.#conditions.reorders) atMs = Math.max(atMs, last + 0.001);
    else if (atMs < last) this.#conditions.befalls(kind, "overtaken");
    this.#lastArrival.set(between, Math.max(last, atMs));
    this.#world.after(atMs - this.#world.nowMs, to.owner, () => {
      if (!to.link.cut) run();
    });
  }

  #message(
    to: SimConnection,
    subject: string,
    data: Uint8Array,
    reply: string | undefined,
    headers: MsgHdrs | undefined,
  ): Msg {
    return {
      subject,
      sid: 0,
      data,
      ...(reply === undefined ? {} : { reply }),
      ...(headers === undefined ? {} : { headers }),
      respond: (answer?: Uint8Array | string) => {
        if (reply === undefined) return false;
        to.publish(reply, answer);
        return true;
      },
      json: <T>() => JSON.parse(Buffer.from(data).toString()) as T,
      string: () => Buffer.from(data).toString(),
    } as Msg;
  }
}
