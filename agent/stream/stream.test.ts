import { createHash, randomBytes } from "node:crypto";

import { connect, type NatsConnection } from "@nats-io/transport-node";
import { afterAll, beforeAll, expect, test } from "vitest";

import { migrationCreditSubject, migrationDataSubject } from "../../proto/contract/subjects.ts";
import { openReceiver, type ImageReceiver } from "./receiver.ts";
import { openSender } from "./sender.ts";
import { startNatsServer, type TestNatsServer } from "./testing/nats-server.ts";

let server: TestNatsServer;
let source: NatsConnection;
let target: NatsConnection;
let migrations = 0;
const never = new AbortController().signal;
const nextMigration = (): string => `test-${++migrations}`;
const open = (): Promise<NatsConnection> =>
  connect({ port: server.port, reconnectTimeWait: 50, maxReconnectAttempts: -1 });

beforeAll(async () => {
  server = await startNatsServer();
  [source, target] = await Promise.all([open(), open()]);
});
afterAll(async () => {
  await Promise.all([source.close(), target.close()]);
  await server[Symbol.asyncDispose]();
});

/** Pieces of all kinds: random, text, zeros, tiny, and larger than a chunk. */
function* pieces(count: number): Generator<Buffer> {
  for (let turn = 0; turn < count; turn++) {
    if (turn % 5 === 0) yield randomBytes(300_000);
    else if (turn % 5 === 1) yield Buffer.from(`key-${turn} `.repeat(30_000));
    else if (turn % 5 === 2) yield Buffer.alloc(1_100_000);
    else if (turn % 5 === 3) yield randomBytes(turn);
    else yield Buffer.concat([randomBytes(50_000), Buffer.alloc(900_000)]);
  }
}

async function digestOf(
  receiver: ImageReceiver,
  eachPiece?: (pieces: number) => Promise<void>,
): Promise<string> {
  const hash = createHash("sha256");
  let taken = 0;
  for await (const chunk of receiver.chunks()) {
    hash.update(chunk);
    await eachPiece?.(++taken);
  }
  return hash.digest("hex");
}

async function sendAll(
  options: Parameters<typeof openSender>[0],
  count: number,
  eachPiece?: (pieces: number) => Promise<void>,
): Promise<{ digest: string; sentBytes: number; rawBytes: number }> {
  const hash = createHash("sha256");
  await using sender = await openSender(options);
  let sent = 0;
  for (const piece of pieces(count)) {
    hash.update(piece);
    await sender.write(piece);
    await eachPiece?.(++sent);
  }
  await sender.finish();
  return { digest: hash.digest("hex"), sentBytes: sender.sentBytes, rawBytes: sender.rawBytes };
}

test("a stream arrives whole, smaller on the wire than it was", async () => {
  const migration = nextMigration();
  await using receiver = await openReceiver({ connection: target, migration, signal: never });
  const [sent, received] = await Promise.all([
    sendAll({ connection: source, migration, signal: never }, 40),
    digestOf(receiver),
  ]);
  expect(received).toBe(sent.digest);
  expect(sent.sentBytes).toBeLessThan(sent.rawBytes / 2);
  expect(receiver.receivedBytes).toBe(sent.sentBytes);
});

test("an empty stream arrives as an empty one", async () => {
  const migration = nextMigration();
  await using receiver = await openReceiver({ connection: target, migration, signal: never });
  const [sent, received] = await Promise.all([
    sendAll({ connection: source, migration, signal: never }, 0),
    digestOf(receiver),
  ]);
  expect(received).toBe(sent.digest);
});

test("the sender waits for a receiver that opens later, and no longer than its idle timeout", async () => {
  const migration = nextMigration();
  const sending = sendAll({ connection: source, migration, signal: never }, 10);
  await source.flush();
  await using receiver = await openReceiver({ connection: target, migration, signal: never });
  expect(await digestOf(receiver)).toBe((await sending).digest);

  await expect(
    sendAll({ connection: source, migration: nextMigration(), signal: never, idleTimeoutMs: 200 }, 40),
  ).rejects.toMatchObject({ code: "unavailable", retryable: true });
});

test("the receiver does not wait for ever either, but a sender with nothing to say is not silent", async () => {
  await using lonely = await openReceiver({
    connection: target,
    migration: nextMigration(),
    signal: never,
    idleTimeoutMs: 200,
  });
  await expect(digestOf(lonely)).rejects.toMatchObject({ code: "unavailable" });

  const migration = nextMigration();
  await using receiver = await openReceiver({
    connection: target,
    migration,
    signal: never,
    idleTimeoutMs: 400,
  });
  const received = digestOf(receiver);
  await using sender = await openSender({ connection: source, migration, signal: never, idleTimeoutMs: 400 });
  await sender.write(Buffer.from("one"));
  await expect(
    Promise.race([received, new Promise((resolve) => setTimeout(resolve, 1200, "still open"))]),
  ).resolves.toBe("still open");
  await sender.finish();
  await received;
});

test("a slow consumer slows the sender down: it never holds more than the window", async () => {
  const migration = nextMigration();
  const windowBytes = 2 * 1024 * 1024;
  await using receiver = await openReceiver({ connection: target, migration, signal: never, windowBytes });
  await using sender = await openSender({ connection: source, migration, signal: never, windowBytes });
  const sending = (async () => {
    for (let turn = 0; turn < 40; turn++) await sender.write(randomBytes(256 * 1024));
    await sender.finish();
  })();
  let taken = 0;
  for await (const chunk of receiver.chunks()) {
    taken += chunk.byteLength;
    await source.flush();
    // The sender's window, the receiver's, and the chunk being filled.
    expect(sender.rawBytes - taken).toBeLessThanOrEqual(2 * windowBytes + 256 * 1024);
  }
  await sending;
  expect(taken).toBe(40 * 256 * 1024);
});

test("a flushed part arrives before the rest is written", async () => {
  const migration = nextMigration();
  await using receiver = await openReceiver({ connection: target, migration, signal: never });
  await using sender = await openSender({ connection: source, migration, signal: never });
  await sender.write(Buffer.from("first"));
  await sender.flush();
  const chunks = receiver.chunks()[Symbol.asyncIterator]();
  expect(Buffer.from((await chunks.next()).value as Uint8Array).toString()).toBe("first");
  expect(await Promise.all([chunks.next(), sender.finish()])).toMatchObject([{ done: true }, undefined]);
});

/** Stands between two migrations and treats each message as told. */
async function relay(
  from: string,
  to: string,
  fate: (index: number, bytes: Uint8Array) => Uint8Array[],
): Promise<AsyncDisposable> {
  const connection = await open();
  let index = 0;
  connection.subscribe(migrationDataSubject(from), {
    callback: (_, message) => {
      for (const bytes of fate(index++, message.data)) connection.publish(migrationDataSubject(to), bytes);
    },
  });
  connection.subscribe(migrationCreditSubject(to), {
    callback: (_, message) => {
      for (const bytes of fate(index++, message.data))
        connection.publish(migrationCreditSubject(from), bytes);
    },
  });
  await connection.flush();
  return { [Symbol.asyncDispose]: () => connection.close() };
}

const damaged = (bytes: Uint8Array): Uint8Array => {
  const copy = Uint8Array.from(bytes);
  const at = copy.byteLength >> 1;
  copy[at] = (copy[at] ?? 0) ^ 0x40;
  return copy;
};

test.each<[string, (index: number, bytes: Uint8Array) => Uint8Array[]]>([
  ["loses some", (index, bytes) => (index % 11 === 5 ? [] : [bytes])],
  ["repeats some", (index, bytes) => (index % 3 === 0 ? [bytes, bytes] : [bytes])],
  [
    "damages large ones",
    (index, bytes) => (index % 7 === 3 && bytes.byteLength > 10_000 ? [damaged(bytes)] : [bytes]),
  ],
])("a network that %s changes nothing", async (_, fate) => {
  const [from, to] = [nextMigration(), nextMigration()];
  await using _relay = await relay(from, to, fate);
  await using receiver = await openReceiver({
    connection: target,
    migration: to,
    signal: never,
    idleTimeoutMs: 5000,
  });
  const [sent, received] = await Promise.all([
    sendAll({ connection: source, migration: from, signal: never, idleTimeoutMs: 400 }, 30),
    digestOf(receiver),
  ]);
  expect(received).toBe(sent.digest);
});

test("what was damaged beyond the checksum's sight fails the digest, at both ends", async () => {
  const [from, to] = [nextMigration(), nextMigration()];
  // A zero chunk of another length: well-formed, and no payload for a checksum to cover.
  await using _relay = await relay(from, to, (_, bytes) => {
    const zeros =
      bytes.byteLength < 40 && bytes.includes(0x18) && bytes.includes(0x03) && bytes.byteLength > 15;
    if (!zeros) return [bytes];
    const copy = Uint8Array.from(bytes);
    const at = copy.lastIndexOf(0x20) + 2;
    copy[at] = (copy[at] ?? 0) ^ 0x01;
    return [copy];
  });
  await using receiver = await openReceiver({ connection: target, migration: to, signal: never });
  const received = digestOf(receiver).catch((error: unknown) => error);
  await using sender = await openSender({ connection: source, migration: from, signal: never });
  const sent = (async () => {
    await sender.write(Buffer.alloc(256 * 1024));
    await sender.finish();
  })().catch((error: unknown) => error);
  expect(await received).toMatchObject({ code: "corrupt" });
  expect(await sent).toMatchObject({ code: "cancelled", message: expect.stringContaining("digest") });
});

test("nats-server dies and comes back in the middle: the stream goes on", async () => {
  const migration = nextMigration();
  await using receiver = await openReceiver({ connection: target, migration, signal: never });
  const [sent, received] = await Promise.all([
    sendAll({ connection: source, migration, signal: never }, 60, async (pieces) => {
      if (pieces === 20) await server.restart();
    }),
    digestOf(receiver, async (pieces) => {
      if (pieces === 100) await server.restart();
    }),
  ]);
  expect(received).toBe(sent.digest);
});

test("giving up at one end ends the other at once, with the reason", async () => {
  const first = nextMigration();
  await using receiver = await openReceiver({ connection: target, migration: first, signal: never });
  await using sender = await openSender({ connection: source, migration: first, signal: never });
  await sender.write(Buffer.from("x"));
  sender.abort("dump failed: no such process");
  await expect(digestOf(receiver)).rejects.toMatchObject({
    code: "cancelled",
    message: expect.stringContaining("dump failed: no such process"),
  });
  await expect(sender.write(Buffer.from("y"))).rejects.toMatchObject({ code: "cancelled" });

  const second = nextMigration();
  const sending = sendAll({ connection: source, migration: second, signal: never }, 100);
  {
    await using leaving = await openReceiver({ connection: target, migration: second, signal: never });
    for await (const _ of leaving.chunks()) break;
  }
  await expect(sending).rejects.toMatchObject({
    code: "cancelled",
    message: expect.stringContaining("target"),
  });
});

test("the signal ends either end", async () => {
  const stop = new AbortController();
  const migration = nextMigration();
  await using receiver = await openReceiver({ connection: target, migration, signal: stop.signal });
  const received = digestOf(receiver);
  const sending = sendAll({ connection: source, migration, signal: stop.signal }, 100, async (pieces) => {
    if (pieces === 3) stop.abort();
  });
  await expect(sending).rejects.toMatchObject({ code: "cancelled" });
  await expect(received).rejects.toMatchObject({ code: "cancelled" });
  await expect(openSender({ connection: source, migration, signal: stop.signal })).rejects.toThrow(/abort/i);
});

test("a sender that missed the word of completion hears it again after the receiver is disposed", async () => {
  const [from, to] = [nextMigration(), nextMigration()];
  let lost = 0;
  await using _relay = await relay(from, to, (_, bytes) => {
    // `complete` is field 5: the last two bytes of a credit.
    const completes = bytes.byteLength < 20 && bytes.at(-2) === 0x28 && bytes.at(-1) === 1;
    return completes && lost++ < 2 ? [] : [bytes];
  });
  const sending = sendAll({ connection: source, migration: from, signal: never, idleTimeoutMs: 2000 }, 5);
  {
    await using receiver = await openReceiver({ connection: target, migration: to, signal: never });
    await digestOf(receiver);
  }
  await sending;
  expect(lost).toBeGreaterThanOrEqual(3);
});

test("a closed connection is `unavailable`", async () => {
  const connection = await open();
  const migration = nextMigration();
  await using receiver = await openReceiver({ connection, migration, signal: never });
  const received = digestOf(receiver);
  await connection.close();
  await expect(received).rejects.toMatchObject({ code: "unavailable" });
  await expect(openReceiver({ connection, migration, signal: never })).rejects.toMatchObject({
    code: "unavailable",
  });
});
