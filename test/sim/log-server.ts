/** The log and the object store as JetStream keeps them: in one order, never losing what it has acknowledged. */
import type { ObjectInfo } from "@nats-io/obj";
import type { AppendResult, Bounds, LogStore, StoredEntry } from "../../scheduler/log/log-store.ts";
import { readEntries } from "../../scheduler/log/read-entries.ts";
import type { LogServer as LogServerState } from "../../scheduler/public.ts";
import type { SnapshotObjects } from "../../scheduler/log/snapshots.ts";
import type { SimConnection } from "./bus.ts";
import type { Conditions } from "./conditions.ts";
import type { Random } from "./random.ts";
import type { World } from "./world.ts";

/** More than any seed has use for. */
const MAX_ENTRIES = 20_000;
const ATTEMPT_MS = 2_000;

type CallKind = "append" | "log read" | "trim" | "snapshot" | "snapshot read" | "snapshot removal";

interface StoredObject {
  readonly info: ObjectInfo;
  readonly bytes: Uint8Array;
}

export class LogServer {
  readonly #world: World;
  readonly #conditions: Conditions;
  readonly #random: Random;
  readonly #entries: Uint8Array[] = [];
  readonly #objects = new Map<string, StoredObject>();
  #first = 1;
  /** Nobody is answered. */
  down = false;
  /** The ground truth: told each entry in the moment that it is stored. */
  onStored: (stored: StoredEntry) => void = () => undefined;
  readonly #watchers = new Set<{ readonly connection: SimConnection; readonly notice: () => void }>();

  constructor(world: World, conditions: Conditions) {
    this.#world = world;
    this.#conditions = conditions;
    this.#random = world.random.fork("log");
  }

  get last(): number {
    return this.#entries.length;
  }

  /**
   * Asks the server: the question and the answer may be lost on their way each, and what is written takes its time.
   * @param serve what the server does when it has been asked
   */
  call<T>(connection: SimConnection, kind: CallKind, serve: () => T, writes = false): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const { owner } = connection;
    const timer = setTimeout(() => reject(new Error(`timeout: ${kind}`)), ATTEMPT_MS);
    const conditions = this.#conditions;
    const answer = (settle: () => void, diskMs: number): void => {
      const way = `answer to ${kind === "append" ? "an" : "a"} ${kind}`;
      if (this.#isLost(way, conditions.troubles.lostAcknowledgement)) return;
      this.#world.after(conditions.delayMs(this.#random, way) + diskMs, owner, () => {
        if (connection.link.cut) return;
        clearTimeout(timer);
        settle();
      });
    };
    const arrive = (): void => {
      if (this.down) return;
      try {
        const result = serve();
        answer(() => resolve(result), writes ? conditions.diskMs(this.#random) : 0);
      } catch (error) {
        answer(() => reject(error instanceof Error ? error : new Error(String(error))), 0);
      }
    };
    const ask = (): void => void this.#world.after(conditions.delayMs(this.#random, kind), undefined, arrive);
    if (connection.link.cut || this.#isLost(kind, conditions.loss)) return promise;
    ask();
    if (writes && this.#random.chance(conditions.duplication)) {
      conditions.befalls(kind, "doubled");
      ask();
    }
    return promise;
  }

  #isLost(kind: string, share: number): boolean {
    if (!this.#random.chance(share)) return false;
    this.#world.trace(`lost: ${kind}`);
    this.#conditions.befalls(kind, "lost");
    return true;
  }

  append(from: SimConnection, bytes: Uint8Array, expectedLast: number): AppendResult {
    if (expectedLast !== this.last) {
      this.#world.trace(
        `${from.owner.name} appends after ${expectedLast}: conflict, the log ends with ${this.last}`,
      );
      return { kind: "conflict" };
    }
    const sequence = this.#entries.push(Buffer.from(bytes));
    this.onStored({ sequence, bytes });
    if (sequence > MAX_ENTRIES) this.#world.violated("the log grows and grows");
    for (const { connection, notice } of this.#watchers) {
      if (connection === from || this.#isLost("notice of an entry", this.#conditions.loss)) continue;
      const ms = this.#conditions.delayMs(this.#random, "notice of an entry");
      this.#world.after(ms, connection.owner, () => {
        if (!connection.link.cut) notice();
      });
    }
    return { kind: "stored", sequence };
  }
  bounds(): Bounds {
    return { first: this.#first, last: this.last };
  }
  readOne(sequence: number): StoredEntry | undefined {
    const bytes = sequence < this.#first ? undefined : this.#entries[sequence - 1];
    return bytes === undefined ? undefined : { sequence, bytes };
  }
  trimBefore(sequence: number): void {
    this.#first = Math.max(this.#first, sequence);
  }
  watch(connection: SimConnection, notice: () => void): Disposable {
    const watcher = { connection, notice };
    this.#watchers.add(watcher);
    return { [Symbol.dispose]: () => void this.#watchers.delete(watcher) };
  }
  forget(connection: SimConnection): void {
    for (const watcher of this.#watchers)
      if (watcher.connection === connection) this.#watchers.delete(watcher);
  }

  objects(connection: SimConnection): SnapshotObjects {
    const call = <T>(kind: CallKind, serve: () => T, writes = false): Promise<T> =>
      this.call(connection, kind, serve, writes);
    return {
      list: () => call("snapshot read", () => [...this.#objects.values()].map(({ info }) => info)),
      info: (name) => call("snapshot read", () => this.#objects.get(name)?.info ?? null),
      getBlob: (name) => call("snapshot read", () => this.#objects.get(name)?.bytes ?? null),
      putBlob: (meta, bytes) =>
        call(
          "snapshot",
          () => {
            const { name, metadata = {} } = meta;
            // As after a disk that wrote something else than it was given.
            const isSpoilt = this.#random.chance(this.#conditions.troubles.unreadableSnapshot);
            const kept = Buffer.from(bytes ?? []);
            if (isSpoilt && kept.length > 0) kept[0] = (kept[0] ?? 0) ^ 0xff;
            const info = { name, metadata, deleted: false, size: kept.length } as unknown as ObjectInfo;
            this.#objects.set(name, { info, bytes: kept });
            return info;
          },
          true,
        ),
      delete: (name) =>
        call("snapshot removal", () => {
          this.#objects.delete(name);
          return { success: true, purged: 1 };
        }),
    };
  }
}

/** The log as one scheduler sees it. */
export class SimLog implements LogStore {
  readonly #server: LogServer;
  readonly #connection: SimConnection;

  constructor(server: LogServer, connection: SimConnection) {
    this.#server = server;
    this.#connection = connection;
  }
  bounds(): Promise<Bounds> {
    return this.#server.call(this.#connection, "log read", () => this.#server.bounds());
  }
  readOne(sequence: number): Promise<StoredEntry | undefined> {
    return this.#server.call(this.#connection, "log read", () => this.#server.readOne(sequence));
  }
  read(from: number, to: number): AsyncGenerator<StoredEntry> {
    return readEntries(this, from, to);
  }
  append(bytes: Uint8Array, expectedLast: number): Promise<AppendResult> {
    return this.#server.call(
      this.#connection,
      "append",
      () => this.#server.append(this.#connection, bytes, expectedLast),
      true,
    );
  }
  trimBefore(sequence: number): Promise<void> {
    return this.#server.call(this.#connection, "trim", () => this.#server.trimBefore(sequence));
  }
  async servers(): Promise<LogServerState[]> {
    await Promise.resolve();
    return [];
  }
  onForeignAppend(notice: () => void): Disposable {
    return this.#server.watch(this.#connection, notice);
  }
}
