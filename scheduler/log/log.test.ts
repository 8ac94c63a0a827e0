/** The log on a real nats-server: two leaders, lost answers, kills, tampering. */
import { jetstreamManager } from "@nats-io/jetstream";
import type { NatsConnection } from "@nats-io/transport-node";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { GodwitError } from "../../proto/contract/error.ts";
import { LOG_STREAM, LOG_SUBJECT } from "../../proto/contract/subjects.ts";
import { LogEntry } from "../../proto/gen/godwit/v1/log.ts";
import { command } from "../plan/command.ts";
import { eventually } from "../testing/eventually.ts";
import { join, LogMembers, nodesOf, type Member } from "../testing/log-members.ts";
import { sampleImage } from "../testing/sample.ts";
import { JetStreamLog } from "./jetstream-log.ts";
import type { AppendResult, LogStore } from "./log-store.ts";

let all: LogMembers;
let connection: NatsConnection;

beforeEach(async () => {
  all = await LogMembers.start();
  connection = all.connection;
});
afterEach(async () => {
  await all[Symbol.asyncDispose]();
});

describe("appending", () => {
  test("what was proposed together shares an entry, and a replay reaches the same hash", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const names = Array.from({ length: 50 }, (_, at) => `n${at}`);
    const outcomes = await Promise.all(names.map((name) => a.committer.propose(join(name))));
    expect(outcomes.every((outcome) => outcome === undefined)).toBe(true);
    expect(a.replica.sequence).toBeLessThan(10);
    expect((await all.replayed()).hash()).toBe(a.replica.hash());
  });

  test("what does not fit one entry is spread over several, and what fits none is refused", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const addImage = (name: string, kib: number): Promise<unknown> => {
      const config = {
        entrypoint: [],
        cmd: [],
        env: [`A=${"x".repeat(kib * 1024)}`],
        workingDir: "",
        user: "",
        stopSignal: "",
      };
      return a.committer.propose(command("imageAdded", { image: { ...sampleImage(name), config } }));
    };
    const names = Array.from({ length: 12 }, (_, at) => `image${at}`);
    await Promise.all(names.map((name) => addImage(name, 200)));
    expect(Object.keys(a.replica.cluster.state.images)).toHaveLength(12);
    expect(a.replica.sequence).toBe(5);
    await expect(addImage("huge", 600)).rejects.toMatchObject({ code: "invalid" });
  });

  test("a rejected command does not take its neighbours with it", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const [first, second, third] = await Promise.all([
      a.committer.propose(join("n1")),
      a.committer.propose(command("nodeRemoved", { node: "n9" })),
      a.committer.propose(join("n2")),
    ]);
    expect([first, second?.code, third]).toEqual([undefined, "not-found", undefined]);
    expect(nodesOf(a)).toEqual(["n1", "n2"]);
  });

  test("of two leaders the older one's entry does not get in, and it steps down", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const b = await all.member("b", { on: await all.connect() });
    await b.committer.lead();
    expect(b.replica.cluster.state.epoch).toBe(2);
    expect(a.committer.leading).toBe(true); // it has not heard of it yet
    await expect(a.committer.propose(join("n1"))).rejects.toMatchObject({
      code: "unavailable",
      message: /b does, with epoch 2/,
    });
    expect(a.committer.leading).toBe(false);
    await b.committer.propose(join("n2"));
    await a.committer.synchronize();
    expect(nodesOf(a)).toEqual(["n2"]);
    expect(a.replica.hash()).toBe(b.replica.hash());
  });

  test("two that begin at once both get their turn, one after the other", async () => {
    const members = await Promise.all([
      all.member("a"),
      all.member("b", { on: await all.connect() }),
      all.member("c", { on: await all.connect() }),
    ]);
    await Promise.all(members.map((one) => one.committer.lead()));
    await Promise.all(members.map((one) => one.committer.synchronize()));
    expect(members.filter((one) => one.committer.leading)).toHaveLength(1);
    expect(new Set(members.map((one) => one.replica.hash())).size).toBe(1);
    expect(members[0]?.replica.cluster.state.epoch).toBe(3);
  });
});

/** In front of the real log: loses answers, or requests. */
class FaultyLog implements LogStore {
  readonly #log: LogStore;
  lose: "answer" | "request" | undefined;
  lost = 0;
  afterStore: (() => Promise<void>) | undefined;
  constructor(log: LogStore) {
    this.#log = log;
  }
  bounds(): ReturnType<LogStore["bounds"]> {
    return this.#log.bounds();
  }
  readOne(sequence: number): ReturnType<LogStore["readOne"]> {
    return this.#log.readOne(sequence);
  }
  read(from: number, to: number): ReturnType<LogStore["read"]> {
    return this.#log.read(from, to);
  }
  trimBefore(sequence: number): Promise<void> {
    return this.#log.trimBefore(sequence);
  }
  async append(bytes: Uint8Array, expectedLast: number): Promise<AppendResult> {
    const { lose } = this;
    this.lose = undefined;
    if (lose === "request") {
      this.lost += 1;
      throw new Error("request lost");
    }
    const result = await this.#log.append(bytes, expectedLast);
    if (lose === "answer") {
      this.lost += 1;
      await this.afterStore?.();
      throw new Error("answer lost");
    }
    return result;
  }
}

describe("an append without an answer", () => {
  const faulty = async (): Promise<{ a: Member; log: FaultyLog }> => {
    let log: FaultyLog | undefined;
    const a = await all.member("a", { wrap: (real) => (log = new FaultyLog(real)) });
    await a.committer.lead();
    if (log === undefined) throw new Error("not wrapped");
    return { a, log };
  };

  test.each(["answer", "request"] as const)("the %s lost: applied exactly once", async (lose) => {
    const { a, log } = await faulty();
    log.lose = lose;
    expect(await a.committer.propose(join("n1"))).toBeUndefined();
    expect(log.lost).toBe(1);
    expect((await log.bounds()).last).toBe(2);
    expect((await all.replayed()).hash()).toBe(a.replica.hash());
  });

  test("stored, and another leader has appended behind it: still found by its id", async () => {
    const { a, log } = await faulty();
    const b = await all.member("b", { on: await all.connect() });
    log.lose = "answer";
    log.afterStore = async () => {
      await b.committer.synchronize();
      await b.committer.lead();
    };
    expect(await a.committer.propose(join("n1"))).toBeUndefined();
    await a.committer.synchronize();
    expect(a.committer.leading).toBe(false);
    expect(nodesOf(b)).toEqual(["n1"]);
    expect(a.replica.hash()).toBe(b.replica.hash());
  });

  test("not stored, and another leader took its place: not done", async () => {
    const { a, log } = await faulty();
    const b = await all.member("b", { on: await all.connect() });
    await b.committer.lead();
    log.lose = "request";
    await expect(a.committer.propose(join("n1"))).rejects.toMatchObject({ code: "unavailable" });
    expect(nodesOf(b)).toEqual([]);
  });
});

describe("nats-server is killed", () => {
  test("proposals wait for it to come back, and nothing is lost or done twice", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    await a.committer.propose(join("n1"));
    for (let round = 0; round < 3; round += 1) {
      await all.server.kill();
      const waiting = Promise.all(
        [join(`a${round}`), join(`b${round}`)].map((one) => a.committer.propose(one)),
      );
      await all.server.launch();
      expect(await waiting).toEqual([undefined, undefined]);
      await a.committer.propose(join(`c${round}`));
    }
    expect(nodesOf(a)).toHaveLength(10);
    expect((await all.replayed()).hash()).toBe(a.replica.hash());
  });

  test("in the middle of a stream of proposals, again and again", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const state = { proposed: 0, stop: false };
    const stream = (async () => {
      while (!state.stop) {
        const schedulable = state.proposed % 2 === 0;
        if (state.proposed === 0) await a.committer.propose(join("n1"));
        await a.committer.propose(command("nodeSchedulableSet", { node: "n1", schedulable }));
        state.proposed += 1;
      }
    })();
    for (let round = 0; round < 3; round += 1) {
      const from = state.proposed;
      await eventually("some progress", () => state.proposed > from + 20);
      await all.server.kill();
      await all.server.launch();
    }
    state.stop = true;
    await stream;
    const replica = await all.replayed();
    expect(replica.hash()).toBe(a.replica.hash());
    const log = await JetStreamLog.open(connection, { replicas: 1, writer: "count" });
    const ids = new Set<string>();
    let commands = 0;
    for await (const { bytes } of log.read(1, replica.sequence)) {
      const entry = LogEntry.decode(bytes);
      ids.add(entry.id);
      commands += entry.commands.filter((one) => one.command?.$case === "nodeSchedulableSet").length;
    }
    expect(ids.size).toBe(replica.sequence);
    expect(commands).toBe(state.proposed);
  });

  test("for longer than the deadline: unavailable, and later proposals work", async () => {
    const a = await all.member("a", { deadlineMs: 300 });
    await a.committer.lead();
    await all.server.kill();
    const [first, second] = await Promise.allSettled([
      a.committer.propose(join("n1")),
      a.committer.propose(join("n2")),
    ]);
    for (const result of [first, second])
      expect(result).toMatchObject({ status: "rejected", reason: { code: "unavailable" } });
    await all.server.launch();
    await eventually("the log to take entries again", async () => {
      try {
        return (await a.committer.propose(join("n3"))) === undefined;
      } catch (error) {
        if (GodwitError.from(error).code === "unavailable") return false;
        throw error;
      }
    });
    expect(a.committer.leading).toBe(true);
    expect((await all.replayed()).hash()).toBe(a.replica.hash());
  });
});

describe("damage is noticed", () => {
  /** Publishes what no committer would. */
  const forge = async (prevHash: Buffer, epoch: number): Promise<void> => {
    const entry = LogEntry.encode({
      id: "forged",
      epoch,
      atMs: 1,
      prevHash,
      commands: [join("evil")],
    }).finish();
    await (await jetstreamManager(connection)).jetstream().publish(LOG_SUBJECT, entry);
  };

  test("an entry that does not follow from the one before stops the replica", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const hash = a.replica.hash();
    await forge(Buffer.alloc(32, 7), 1);
    await expect(a.committer.synchronize()).rejects.toMatchObject({
      code: "corrupt",
      message: /chain breaks at entry 2/,
    });
    await expect(a.committer.propose(join("n1"))).rejects.toMatchObject({ code: "corrupt" });
    expect(a.committer.leading).toBe(false);
    expect(a.replica.hash()).toBe(hash);
    await expect(all.member("b")).rejects.toMatchObject({ code: "corrupt" });
  });

  test("an entry that cannot be decoded stops it too", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    await (await jetstreamManager(connection)).jetstream().publish(LOG_SUBJECT, "garbage");
    await expect(a.committer.synchronize()).rejects.toMatchObject({
      code: "corrupt",
      message: /entry 2 .*cannot be read/,
    });
  });

  test("a chained entry of an old epoch is harmless", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    await forge(a.replica.chainHash, 0);
    await a.committer.synchronize();
    expect(nodesOf(a)).toEqual([]);
    expect(a.committer.leading).toBe(true);
  });

  test("a log that is shorter than what was applied is not followed", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const manager = await jetstreamManager(connection);
    await manager.streams.delete(LOG_STREAM);
    await JetStreamLog.open(connection, { replicas: 1, writer: "x" });
    await expect(a.committer.synchronize()).rejects.toMatchObject({
      code: "corrupt",
      message: /lost entries/,
    });
  });

  test("entries cannot be deleted one by one, and a foreign stream is refused", async () => {
    const a = await all.member("a");
    await a.committer.lead();
    const manager = await jetstreamManager(connection);
    await expect(manager.streams.deleteMessage(LOG_STREAM, 1)).rejects.toThrow(/delete/);
    await manager.streams.delete(LOG_STREAM);
    await manager.streams.add({ name: LOG_STREAM, subjects: [LOG_SUBJECT], max_msgs: 10 });
    await expect(JetStreamLog.open(connection, { replicas: 1, writer: "x" })).rejects.toMatchObject({
      code: "refused",
    });
  });
});
