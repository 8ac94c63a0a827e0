/** Snapshots on a real nats-server: trimming, restarts, damage. */
import { jetstreamManager } from "@nats-io/jetstream";
import { Objm } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import { afterEach, beforeEach, expect, test } from "vitest";
import { LOG_STREAM, LOG_SUBJECT, SNAPSHOT_STORE } from "../../proto/contract/subjects.ts";
import { firstFormatPieces } from "../state/hash.ts";
import { join, LogMembers, nodesOf, type Member } from "../testing/log-members.ts";
import { silent } from "../testing/sample.ts";
import { JetStreamLog } from "./jetstream-log.ts";
import { openLog } from "./open.ts";
import { thisMachine } from "./machine.ts";
import { sha256 } from "./replica.ts";
import { makeSnapshot, type MakeSnapshot } from "./snapshot-making.ts";
import { SnapshotStore, takeSnapshot } from "./snapshots.ts";
import { Snapshotter } from "./snapshotter.ts";

let all: LogMembers;
let connection: NatsConnection;

beforeEach(async () => {
  all = await LogMembers.start();
  connection = all.connection;
});
afterEach(async () => {
  await all[Symbol.asyncDispose]();
});

const EVERY = 5;
const opened = async (): Promise<Awaited<ReturnType<typeof openLog>>> => {
  const result = await openLog(connection, {
    replicas: 1,
    writer: "w",
    logger: silent,
    settings: all.server.settings,
  });
  all.stack.use(result.events);
  return result;
};
/** Those of this test are made where it can see it; see below for the thread. */
const here =
  ({ log }: Pick<Member, "log">): MakeSnapshot =>
  async (sequence) =>
    makeSnapshot(log, await SnapshotStore.open(connection, 1, silent), sequence);
const snapshotterOf = (a: Member, make: MakeSnapshot = here(a), every = EVERY): Snapshotter =>
  new Snapshotter({
    rescue: async () => (await SnapshotStore.open(connection, 1, silent)).save(takeSnapshot(a.replica)),
    make,
    log: a.log,
    replica: a.replica,
    every,
    machine: thisMachine(),
    logger: silent,
  });
const running = async (): Promise<Member & { snapshotter: Snapshotter }> => {
  const { replica } = await opened();
  const a = await all.member("a", { replica });
  await a.committer.lead();
  return { ...a, snapshotter: snapshotterOf(a) };
};
const grow = async (a: Member & { snapshotter: Snapshotter }, entries: number): Promise<void> => {
  for (let at = 0; at < entries; at += 1) {
    await a.committer.propose(join(`n${a.replica.sequence}`));
    a.snapshotter.consider(1);
    await a.snapshotter.settle();
  }
};

test("bound the log, and a restart continues from the newest", async () => {
  const a = await running();
  await grow(a, 33);
  expect(a.snapshotter.failure).toBeUndefined();
  const { first, last } = await a.log.bounds();
  expect(last - first).toBeLessThanOrEqual(3 * EVERY);
  expect(first).toBeGreaterThan(1);
  const objects = await (await new Objm(connection).open(SNAPSHOT_STORE)).list();
  expect(objects.filter((object) => !object.deleted)).toHaveLength(2);
  await all.server.kill();
  await all.server.launch();
  const again = await opened();
  expect(again.replica.sequence).toBe(a.snapshotter.sequence);
  const b = await all.member("b", { replica: again.replica });
  expect(b.replica.hash()).toBe(a.replica.hash());
  await b.committer.lead();
  expect(nodesOf(b)).toHaveLength(33);
});

test("a damaged newest one is passed over for the one before", async () => {
  const a = await running();
  await grow(a, 20);
  const store = await new Objm(connection).open(SNAPSHOT_STORE);
  const newest = (await store.list()).toSorted((x, y) => (x.name < y.name ? 1 : -1))[0];
  if (newest === undefined) throw new Error("no snapshot");
  await store.putBlob(
    { name: newest.name, ...(newest.metadata === undefined ? {} : { metadata: newest.metadata }) },
    Buffer.from("oops"),
  );
  const again = await opened();
  expect(again.replica.sequence).toBe(a.snapshotter.sequence - EVERY);
  const b = await all.member("b", { replica: again.replica });
  expect(b.replica.hash()).toBe(a.replica.hash());
});

test("one of the first format is gone on from", async () => {
  const a = await running();
  await grow(a, 20);
  const { chainHash, cluster, sequence } = a.replica;
  const bytes = Buffer.concat([...firstFormatPieces(cluster)]);
  const store = await new Objm(connection).open(SNAPSHOT_STORE);
  for (const { name } of await store.list()) await store.delete(name);
  const metadata = {
    format: "1",
    sequence: String(sequence),
    stateHash: sha256(bytes).toString("hex"),
    chainHash: chainHash.toString("hex"),
  };
  await store.putBlob({ name: `state-${String(sequence).padStart(16, "0")}`, metadata }, bytes);
  const { replica } = await opened();
  expect(replica.sequence).toBe(sequence);
  expect(replica.hash()).toBe(a.replica.hash());
  await grow(a, EVERY);
  expect((await opened()).replica.sequence).toBe(a.snapshotter.sequence);
  expect(a.snapshotter.sequence).toBeGreaterThan(sequence);
});

test("without any whole one a trimmed log is not enough, and says so", async () => {
  const a = await running();
  await grow(a, 20);
  const store = await new Objm(connection).open(SNAPSHOT_STORE);
  const names = (await store.list()).map((object) => object.name);
  for (const name of names) await store.putBlob({ name, metadata: { format: "1" } }, Buffer.from("oops"));
  await expect(opened()).rejects.toMatchObject({ code: "corrupt", message: /there is no whole snapshot/ });
  for (const name of names) await store.delete(name);
  await expect(opened()).rejects.toMatchObject({ code: "corrupt", message: /there is no whole snapshot/ });
});

test("without any whole one a log that was never trimmed is enough, as far as it is all there", async () => {
  const a = await running();
  await grow(a, EVERY);
  const store = await new Objm(connection).open(SNAPSHOT_STORE);
  const [only] = await store.list();
  if (only === undefined) throw new Error("no snapshot");
  await store.putBlob({ name: only.name, metadata: { format: "1" } }, Buffer.from("oops"));
  const b = await all.member("b", { replica: (await opened()).replica });
  expect(b.replica.hash()).toBe(a.replica.hash());
  const manager = await jetstreamManager(connection);
  await manager.streams.delete(LOG_STREAM);
  await JetStreamLog.open(connection, { replicas: 1, writer: "x" });
  await expect(opened()).rejects.toMatchObject({ code: "corrupt", message: /before the snapshot/ });
});

test("one of another log is not taken", async () => {
  const a = await running();
  await grow(a, 6);
  const manager = await jetstreamManager(connection);
  await manager.streams.delete(LOG_STREAM);
  await JetStreamLog.open(connection, { replicas: 1, writer: "x" });
  await expect(opened()).rejects.toMatchObject({ code: "corrupt", message: /before the snapshot/ });
  for (let at = 0; at < 10; at += 1) await manager.jetstream().publish(LOG_SUBJECT, `other ${at}`);
  await expect(opened()).rejects.toMatchObject({ code: "corrupt", message: /was not made from this log/ });
});

test("large ones are made when the log has grown by as much", async () => {
  const large = 9 * 1024 ** 2;
  const made: number[] = [];
  const replica = { sequence: 0 };
  const make: MakeSnapshot = (sequence) => {
    made.push(sequence);
    return Promise.resolve({ sequence, stateHash: "", bytes: large, trimBehind: undefined });
  };
  await using snapshotter = new Snapshotter({
    make,
    rescue: () => Promise.reject(new Error("not needed")),
    log: { trimBefore: () => Promise.resolve() },
    replica,
    every: EVERY,
    machine: thisMachine(),
    logger: silent,
  });
  const grow = async (entries: number, bytes: number): Promise<void> => {
    for (let at = 0; at < entries; at += 1) {
      replica.sequence += 1;
      snapshotter.consider(bytes);
      await snapshotter.settle();
    }
  };
  await grow(EVERY, 1);
  expect(made).toEqual([EVERY]);
  // Many small ones.
  await grow(10 * EVERY, 1);
  expect(made).toEqual([EVERY]);
  await grow(1, large);
  expect(made).toEqual([EVERY, 11 * EVERY + 1]);
  // A few large ones.
  await grow(EVERY - 1, large);
  expect(made).toHaveLength(2);
  await grow(1, 1);
  expect(made).toEqual([EVERY, 11 * EVERY + 1, 12 * EVERY + 1]);
});

test("one that cannot be stored is tried again, and the log is kept", async () => {
  const a = await running();
  const snapshotter = snapshotterOf(a, () => Promise.reject(new Error("no space")));
  await grow({ ...a, snapshotter }, 8);
  expect(snapshotter.failure?.message).toBe("no space");
  expect((await a.log.bounds()).first).toBe(1);
  const saved = snapshotterOf(a, here(a), 1);
  await grow({ ...a, snapshotter: saved }, 1);
  expect(saved.failure).toBeUndefined();
});

test("who was away while the log was trimmed beyond him goes on from a snapshot, and may lead", async () => {
  const a = await running();
  await grow(a, 3);
  const { reload } = await opened();
  const b = await all.member("b", { on: await all.connect(), reload });
  const { cluster } = b.replica;
  await grow(a, 30);
  expect((await a.log.bounds()).first).toBeGreaterThan(b.replica.sequence + 1);
  await b.committer.synchronize();
  expect(b.replica.hash()).toBe(a.replica.hash());
  expect(b.replica.cluster).toBe(cluster);
  await b.committer.lead();
  await b.committer.propose(join("last"));
  await a.committer.synchronize();
  expect(nodesOf(a)).toContain("last");
  expect(a.replica.hash()).toBe(b.replica.hash());
});

test("without a newer snapshot, who was away too long stops and says why", async () => {
  const a = await running();
  const b = await all.member("b", { on: await all.connect(), reload: () => Promise.resolve(undefined) });
  await grow(a, 33);
  await expect(b.committer.synchronize()).rejects.toMatchObject({
    code: "corrupt",
    message: /trimmed beyond entry/,
  });
});

test("are made by a thread from the log, and are the state of the one who leads", async () => {
  const { makeSnapshot: inThread, replica } = await opened();
  const a = await all.member("a", { replica });
  await a.committer.lead();
  await grow({ ...a, snapshotter: snapshotterOf(a, inThread, 1_000) }, 20);
  const hash = a.replica.hash();
  const at = a.replica.sequence;
  const saving = inThread(at, new AbortController().signal);
  await a.committer.propose(join("meanwhile"));
  expect(await saving).toMatchObject({ sequence: at, stateHash: hash, trimBehind: undefined });
  // From the one before on.
  const next = await inThread(a.replica.sequence, new AbortController().signal);
  expect(next).toMatchObject({ sequence: at + 1, stateHash: a.replica.hash(), trimBehind: at });
  expect((await opened()).replica.hash()).toBe(next.stateHash);
});

test("whose thread cannot connect, or is not wanted any more, leave the log as it is", async () => {
  const { snapshotter: _, ...a } = await running();
  const { makeSnapshot: inThread } = await opened();
  const stop = new AbortController();
  const saving = inThread(a.replica.sequence, stop.signal);
  stop.abort();
  await expect(saving).rejects.toMatchObject({ code: "cancelled" });
  await all.server.kill();
  const snapshotter = snapshotterOf(a, inThread, 1);
  await expect(inThread(a.replica.sequence, new AbortController().signal)).rejects.toMatchObject({
    code: "unavailable",
  });
  await all.server.launch();
  await a.committer.synchronize();
  await grow({ ...a, snapshotter }, 2);
  expect(snapshotter.failure).toBeUndefined();
  expect(snapshotter.sequence).toBe(a.replica.sequence);
});

test("are made of what the leader has when none in the store is whole any more", async () => {
  const a = await running();
  await grow(a, 20);
  const store = await new Objm(connection).open(SNAPSHOT_STORE);
  for (const { name } of await store.list())
    await store.putBlob({ name, metadata: { format: "1" } }, Buffer.from("oops"));
  await grow(a, EVERY + 1);
  expect(a.snapshotter.failure).toBeUndefined();
  const again = await opened();
  expect(again.replica.sequence).toBe(a.snapshotter.sequence);
});
