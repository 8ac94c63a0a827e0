import { createHash, randomBytes } from "node:crypto";

import { connect, type NatsConnection } from "@nats-io/transport-node";
import { afterAll, beforeAll, expect, test } from "vitest";

import { CompressingThreads } from "../native/zstd-threads.ts";
import { findCollect } from "./garbage.ts";
import type { StreamEnds } from "./handshake.ts";
import { openReceiver, type ImageReceiver } from "./receiver.ts";
import { type ImageSender, openSender } from "./sender.ts";
import { pairOfEnds } from "./testing/ends.ts";
import { startNatsServer, type TestNatsServer } from "./testing/nats-server.ts";

let server: TestNatsServer;
let source: NatsConnection;
let target: NatsConnection;
let migrations = 0;
/** Chunks are ready in another order than they were begun in. */
const threads = new CompressingThreads(2);
const never = new AbortController().signal;
const nextEnds = (): { source: StreamEnds; target: StreamEnds } => pairOfEnds(`test-${++migrations}`);
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

/** Loses one of so many messages on their way out. */
class LossyConnection {
  readonly connection: NatsConnection;
  /** Of all messages, those that are lost included. */
  bytes = 0;
  #messages = 0;

  constructor(connection: NatsConnection, every: number) {
    const publish: NatsConnection["publish"] = (subject, payload, options) => {
      this.bytes += payload?.length ?? 0;
      this.#messages += 1;
      if (this.#messages % every !== 0) connection.publish(subject, payload, options);
    };
    this.connection = new Proxy(connection, {
      get: (target, name) => {
        if (name === "publish") return publish;
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
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

test.each([0, 4_000_000])(
  "drained, everything is there, also at %d bytes a second",
  async (bytesPerSecond) => {
    const ends = nextEnds();
    await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
    await using sender = await openSender({
      connection: source,
      ends: ends.source,
      signal: never,
      bytesPerSecond,
      threads,
    });
    const received = digestOf(receiver);
    for (const bytes of [0, 10, 700_000, 3]) {
      await sender.write(randomBytes(bytes));
      await sender.drain();
      expect(receiver.receivedBytes).toBeGreaterThanOrEqual(sender.rawBytes);
    }
    await sender.finish();
    await received;
  },
);

test.each([0, 1, 3])(
  "a stream arrives whole, smaller on the wire than it was, with %i threads beside",
  async (count) => {
    const ends = nextEnds();
    await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
    const [sent, received] = await Promise.all([
      sendAll(
        { connection: source, ends: ends.source, signal: never, threads: new CompressingThreads(count) },
        40,
      ),
      digestOf(receiver),
    ]);
    expect(received).toBe(sent.digest);
    expect(sent.sentBytes).toBeLessThan(sent.rawBytes / 2);
    // A question that was on its way when all had arrived may be counted by its sender alone.
    expect(sent.sentBytes - receiver.receivedBytes).toBeLessThan(1_000);
    expect(receiver.receivedBytes).toBeLessThanOrEqual(sent.sentBytes);
  },
);

test("a server that takes only small messages gets small chunks, and nothing that is not in them", async () => {
  const ends = nextEnds();
  const info = { ...source.info, max_payload: 100_000 };
  const connection = new Proxy(source, {
    get: (connection, name) => {
      if (name === "info") return info;
      const value: unknown = Reflect.get(connection, name);
      return typeof value === "function" ? (value.bind(connection) as unknown) : value;
    },
  });
  await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
  await using sender = await openSender({ connection, ends: ends.source, signal: never, threads });
  const received = digestOf(receiver);
  const hash = createHash("sha256");
  for (let piece = 0; piece < 50; piece += 1) {
    const bytes = randomBytes(30_000);
    hash.update(bytes);
    await sender.write(bytes);
  }
  await sender.finish();
  expect(await received).toBe(hash.digest("hex"));
});

test("a network that loses every seventh message is not flooded with what is sent again", async () => {
  const ends = nextEnds();
  await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
  const lossy = new LossyConnection(source, 7);
  await using sender = await openSender({ connection: lossy.connection, ends: ends.source, signal: never });
  const received = digestOf(receiver);
  const hash = createHash("sha256");
  for (let round = 0; round < 2; round += 1) {
    for (let turn = 0; turn < 10; turn += 1) {
      const piece = randomBytes(1_000_000);
      hash.update(piece);
      await sender.write(piece);
    }
    await sender.drain();
  }
  await sender.finish();
  expect(await received).toBe(hash.digest("hex"));
  // It is three times as much, four on a busy machine; a window for each loss would be ten.
  expect(lossy.bytes).toBeLessThan(5 * sender.rawBytes);
});

test("an empty stream arrives as an empty one", async () => {
  const ends = nextEnds();
  await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
  const [sent, received] = await Promise.all([
    sendAll({ connection: source, ends: ends.source, signal: never }, 0),
    digestOf(receiver),
  ]);
  expect(received).toBe(sent.digest);
});

test("the sender waits for a receiver that opens later, and no longer than its idle timeout", async () => {
  const ends = nextEnds();
  const sending = sendAll({ connection: source, ends: ends.source, signal: never }, 10);
  await source.flush();
  await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
  expect(await digestOf(receiver)).toBe((await sending).digest);

  await expect(
    sendAll({ connection: source, ends: nextEnds().source, signal: never, idleTimeoutMs: 200 }, 40),
  ).rejects.toMatchObject({ code: "unavailable", retryable: true });
});

test("the receiver does not wait for ever either, but a sender with nothing to say is not silent", async () => {
  await using lonely = await openReceiver({
    connection: target,
    ends: nextEnds().source,
    signal: never,
    idleTimeoutMs: 200,
  });
  await expect(digestOf(lonely)).rejects.toMatchObject({ code: "unavailable" });

  const ends = nextEnds();
  await using receiver = await openReceiver({
    connection: target,
    ends: ends.target,
    signal: never,
    idleTimeoutMs: 400,
  });
  const received = digestOf(receiver);
  await using sender = await openSender({
    connection: source,
    ends: ends.source,
    signal: never,
    idleTimeoutMs: 400,
  });
  await sender.write(Buffer.from("one"));
  await expect(
    Promise.race([received, new Promise((resolve) => setTimeout(resolve, 1200, "still open"))]),
  ).resolves.toBe("still open");
  await sender.finish();
  await received;
});

test("a slow consumer slows the sender down: it never holds more than the window", async () => {
  const ends = nextEnds();
  const windowBytes = 2 * 1024 * 1024;
  await using receiver = await openReceiver({
    connection: target,
    ends: ends.target,
    signal: never,
    windowBytes,
  });
  await using sender = await openSender({
    connection: source,
    ends: ends.source,
    signal: never,
    windowBytes,
  });
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
  const ends = nextEnds();
  await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
  await using sender = await openSender({ connection: source, ends: ends.source, signal: never, threads });
  await sender.write(Buffer.from("first"));
  await sender.flush();
  const chunks = receiver.chunks()[Symbol.asyncIterator]();
  expect(Buffer.from((await chunks.next()).value as Uint8Array).toString()).toBe("first");
  expect(await Promise.all([chunks.next(), sender.finish()])).toMatchObject([{ done: true }, undefined]);
});

test("nats-server dies and comes back in the middle: the stream goes on", async () => {
  const ends = nextEnds();
  await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
  const [sent, received] = await Promise.all([
    sendAll({ connection: source, ends: ends.source, signal: never, threads }, 60, async (pieces) => {
      if (pieces === 20) await server.restart();
    }),
    digestOf(receiver, async (pieces) => {
      if (pieces === 100) await server.restart();
    }),
  ]);
  expect(received).toBe(sent.digest);
});

test("giving up at one end ends the other at once, with the reason", async () => {
  const first = nextEnds();
  await using receiver = await openReceiver({ connection: target, ends: first.target, signal: never });
  await using sender = await openSender({ connection: source, ends: first.source, signal: never });
  await sender.write(Buffer.from("x"));
  sender.abort("dump failed: no such process");
  await expect(digestOf(receiver)).rejects.toMatchObject({
    code: "cancelled",
    message: expect.stringContaining("dump failed: no such process"),
  });
  await expect(sender.write(Buffer.from("y"))).rejects.toMatchObject({ code: "cancelled" });

  const second = nextEnds();
  const sending = sendAll({ connection: source, ends: second.source, signal: never }, 100);
  {
    await using leaving = await openReceiver({ connection: target, ends: second.target, signal: never });
    for await (const _ of leaving.chunks()) break;
  }
  await expect(sending).rejects.toMatchObject({
    code: "cancelled",
    message: expect.stringContaining("target"),
  });
});

test("given up while threads are at work on it, a stream ends at once and they do no harm", async () => {
  const ends = nextEnds();
  await using _receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
  const sender = await openSender({ connection: source, ends: ends.source, signal: never, threads });
  const text = Buffer.from("a text that takes a while ".repeat(40_000));
  const sending = sender.write(text);
  sender.abort("enough");
  text.fill(0);
  await expect(sending.then(() => sender.flush())).rejects.toThrow("enough");
  await sender[Symbol.asyncDispose]();
});

test("the signal ends either end", async () => {
  const stop = new AbortController();
  const ends = nextEnds();
  await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: stop.signal });
  const received = digestOf(receiver);
  const sending = sendAll(
    { connection: source, ends: ends.source, signal: stop.signal },
    100,
    async (pieces) => {
      if (pieces === 3) stop.abort();
    },
  );
  await expect(sending).rejects.toMatchObject({ code: "cancelled" });
  await expect(received).rejects.toMatchObject({ code: "cancelled" });
  await expect(openSender({ connection: source, ends: ends.source, signal: stop.signal })).rejects.toThrow(
    /abort/i,
  );
});

test("a closed connection is `unavailable`", async () => {
  const connection = await open();
  const ends = nextEnds();
  await using receiver = await openReceiver({ connection, ends: ends.target, signal: never });
  const received = digestOf(receiver);
  await connection.close();
  await expect(received).rejects.toMatchObject({ code: "unavailable" });
  await expect(openReceiver({ connection, ends: ends.target, signal: never })).rejects.toMatchObject({
    code: "unavailable",
  });
});

test.each([
  ["finished", async (sender: ImageSender) => sender.finish()],
  ["given up by its source", async (sender: ImageSender) => sender.abort("enough")],
  [
    "given up by its target",
    async (_: ImageSender, receiver: ImageReceiver) => receiver[Symbol.asyncDispose](),
  ],
])("a stream that was %s is let go of, although connection and signal live on", async (_, end) => {
  const ends = nextEnds();
  const connection = await open();
  const collect = findCollect();
  const held = await (async () => {
    const receiver = await openReceiver({ connection, ends: ends.target, signal: never });
    const sender = await openSender({ connection, ends: ends.source, signal: never, threads });
    const received = digestOf(receiver).catch(() => undefined);
    await sender.write(Buffer.from("a text ".repeat(100_000)));
    await end(sender, receiver);
    await received;
    return [new WeakRef(sender), new WeakRef(receiver)];
  })();
  await expect
    .poll(
      () => {
        collect({ type: "major" });
        return held.map((one) => one.deref() === undefined);
      },
      { timeout: 10_000 },
    )
    .toEqual([true, true]);
  await connection.close();
});
