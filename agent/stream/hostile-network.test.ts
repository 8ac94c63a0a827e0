import { createHash, randomBytes } from "node:crypto";

import { connect, type NatsConnection } from "@nats-io/transport-node";
import { afterAll, beforeAll, expect, test } from "vitest";

import { Credit } from "../../proto/gen/godwit/v1/stream.ts";
import { type Clock, systemClock } from "./clock.ts";
import { encodeAbort, encodeProbe } from "./frames.ts";
import type { StreamEnds } from "./handshake.ts";
import { CompressingThreads } from "../native/zstd-threads.ts";
import { generateIdentity } from "./identity.ts";
import { openReceiver } from "./receiver.ts";
import { SealedKind, Sealer } from "./sealing.ts";
import { openSender } from "./sender.ts";
import { pairOfEnds } from "./testing/ends.ts";
import { startNatsServer, type TestNatsServer } from "./testing/nats-server.ts";
import { type Fate, relay } from "./testing/relay.ts";

const SECRET = "the password of the database is tiger-lily-42";
/** Asks ten times as often as usual, and is as patient: hosts that run tests are slow. */
const IDLE_MS = 20_000;
const askingClock: Clock = {
  ...systemClock,
  every: (periodMs, tick) => systemClock.every(periodMs / 10, tick),
};
const never = new AbortController().signal;
let servers: { source: TestNatsServer; target: TestNatsServer };
let source: NatsConnection;
let target: NatsConnection;
let migrations = 0;

beforeAll(async () => {
  const [one, other] = await Promise.all([startNatsServer(), startNatsServer()]);
  servers = { source: one, target: other };
  [source, target] = await Promise.all([connect({ port: one.port }), connect({ port: other.port })]);
});
afterAll(async () => {
  await Promise.all([source.close(), target.close()]);
  await Promise.all([servers.source[Symbol.asyncDispose](), servers.target[Symbol.asyncDispose]()]);
});

const CONTENT = Buffer.concat(
  Array.from({ length: 24 }, (_, index) =>
    index % 3 === 0 ? randomBytes(400_000) : Buffer.from(`${SECRET} ${index} `.repeat(9_000)),
  ),
);
const digestOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Sends CONTENT across a network that treats its messages as told. Answers the digest of what arrived. */
async function cross(
  fate: Fate,
  bend?: (ends: ReturnType<typeof pairOfEnds>) => void,
  content: readonly Uint8Array[] = [CONTENT],
): Promise<string> {
  const ends = pairOfEnds(`hostile-${++migrations}`);
  bend?.(ends);
  const ports = { source: servers.source.port, target: servers.target.port };
  await using _relay = await relay(ports, ends.source.migration, fate);
  await using receiver = await openReceiver({
    connection: target,
    ends: ends.target,
    signal: never,
    idleTimeoutMs: IDLE_MS,
    clock: askingClock,
  });
  const sending = (async () => {
    await using sender = await openSender({
      connection: source,
      ends: ends.source,
      signal: never,
      idleTimeoutMs: IDLE_MS,
      clock: askingClock,
      threads: new CompressingThreads(2),
    });
    for (const [index, part] of content.entries()) {
      if (index > 0) await sender.drain();
      await sender.write(part);
    }
    await sender.finish();
  })();
  sending.catch(() => undefined);
  const hash = createHash("sha256");
  for await (const chunk of receiver.chunks()) hash.update(chunk);
  await sending;
  return hash.digest("hex");
}

const damaged = (bytes: Uint8Array, at: number): Uint8Array => {
  const copy = Uint8Array.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 0x40;
  return copy;
};
const isChunk = (bytes: Uint8Array): boolean => bytes[0] === SealedKind.chunk;

/** What an attacker who knows the protocol, but no key, would say. */
const forged = (to: "target" | "source", number: number): Uint8Array => {
  const [kind, content] =
    to === "source"
      ? [SealedKind.credit, Credit.encode(Credit.fromPartial({ error: "give up, all is lost" })).finish()]
      : [SealedKind.control, number % 2 === 0 ? encodeAbort("give up") : encodeProbe(1000)];
  return new Sealer(randomBytes(32)).seal(kind, 2 ** 40 + number, [content], new Uint8Array(200));
};

let before: Uint8Array | undefined;
const swapped: Fate = (bytes, index) => {
  if (before !== undefined) {
    const first = before;
    before = undefined;
    return [bytes, first];
  }
  if (!isChunk(bytes) || index % 5 !== 0) return [bytes];
  before = bytes;
  return [];
};
const recorded: Uint8Array[] = [];

test.each<[string, Fate]>([
  ["loses some", (bytes, index) => (index % 11 === 5 ? [] : [bytes])],
  ["loses the first hellos", (bytes, index) => (index < 3 ? [] : [bytes])],
  ["repeats some", (bytes, index) => (index % 3 === 0 ? [bytes, bytes] : [bytes])],
  ["repeats old ones of all kinds", (bytes) => (recorded.push(bytes), [bytes, ...recorded.slice(-40, -35)])],
  ["swaps some", swapped],
  [
    "damages the content of some",
    (bytes, index) => [index % 7 === 3 ? damaged(bytes, bytes.byteLength >> 1) : bytes],
  ],
  ["damages the number of some chunks", (bytes, index) => [index % 7 === 3 ? damaged(bytes, 8) : bytes]],
  ["cuts some short", (bytes, index) => [index % 7 === 3 ? bytes.subarray(0, bytes.byteLength - 5) : bytes]],
  ["has an attacker who forges", (bytes, index, to) => [forged(to, index), bytes, forged(to, index + 1)]],
  [
    "has an attacker who forges hellos and noise",
    (bytes, index) => [Buffer.concat([Uint8Array.of(0, index % 2), randomBytes(64)]), randomBytes(40), bytes],
  ],
  [
    "sends messages back to who sent them",
    (bytes, index) => [bytes, ...(index > 2 ? recorded.slice(-3) : [])],
  ],
])("a network that %s changes nothing", async (_, fate) => {
  recorded.length = 0;
  before = undefined;
  expect(await cross(fate)).toBe(digestOf(CONTENT));
});

test("who waits for all to have arrived does not flood a network that loses some of it", async () => {
  const sent = { target: 0, source: 0 };
  const part = randomBytes(6_000_000);
  const parts = Array.from({ length: 4 }, () => part);
  await cross(
    (bytes, index, to) => {
      sent[to] += to === "target" ? bytes.byteLength : 1;
      // In no rhythm: one that the answers fall in with would lose the same ones again and again.
      return Math.imul(index + 1, 0x9e37_79b1) >>> 29 === 3 ? [] : [bytes];
    },
    undefined,
    parts,
  );
  // An eighth is lost: where it happens, what is in flight behind it, up to 8 MB, goes over again.
  expect(sent.target).toBeLessThan(14 * 24_000_000);
});

test("who records everything finds no content, and no two messages alike that were not sent twice", async () => {
  const heard: Buffer[] = [];
  await cross((bytes) => (heard.push(Buffer.from(bytes)), [bytes]));
  const chunks = heard.filter(isChunk);
  expect(chunks.length).toBeGreaterThan(8);
  const traffic = Buffer.concat(heard);
  for (const word of [SECRET, "tiger-lily", "database"]) expect(traffic.includes(word)).toBe(false);
  expect(new Set(heard.map(digestOf)).size).toBe(heard.length);
});

test("a chunk that was sent again is the same bytes", async () => {
  const seen = new Map<number, string>();
  let again = 0;
  await cross((bytes, index) => {
    if (isChunk(bytes)) {
      const number = Buffer.from(bytes).readUInt32BE(5);
      const digest = digestOf(bytes);
      if (seen.has(number)) again += 1;
      expect(seen.get(number) ?? digest).toBe(digest);
      seen.set(number, digest);
    }
    return index % 9 === 4 ? [] : [bytes];
  });
  expect(again).toBeGreaterThan(0);
});

test("one stream's chunks are nothing to another stream of the same two nodes", async () => {
  const heard: Uint8Array[] = [];
  let ends: ReturnType<typeof pairOfEnds> | undefined;
  const keep = (made: ReturnType<typeof pairOfEnds>): void => void (ends = made);
  await cross((bytes, _, to) => (to === "target" && heard.push(Uint8Array.from(bytes)), [bytes]), keep);
  const again = (made: { source: StreamEnds; target: StreamEnds }): void => {
    if (ends === undefined) return;
    Object.assign(made.source, { ...ends.source, migration: made.source.migration });
    Object.assign(made.target, { ...ends.target, migration: made.target.migration });
  };
  const fate: Fate = (bytes, index, to) =>
    to === "target" ? [heard[index % heard.length] ?? bytes, bytes] : [bytes];
  expect(await cross(fate, again)).toBe(digestOf(CONTENT));
});

/** Patience runs out 50 times as fast. */
const fastClock: Clock = {
  nowMs: () => systemClock.nowMs() * 50,
  every: (periodMs, tick) => systemClock.every(periodMs / 50, tick),
  after: (delayMs, action) => systemClock.after(delayMs / 50, action),
};
test.each<[string, (ends: ReturnType<typeof pairOfEnds>) => void]>([
  ["has another key than its own", (ends) => Object.assign(ends.source, { identity: generateIdentity() })],
  ["takes the target for another node", (ends) => Object.assign(ends.source, { peerNode: "n3" })],
  ["has the right key under another name", (ends) => Object.assign(ends.source, { node: "n3" })],
])("a source that %s gets no stream, and the target says why", async (_, bend) => {
  const ends = pairOfEnds(`hostile-${++migrations}`);
  bend(ends);
  await using receiver = await openReceiver({
    connection: source,
    ends: ends.target,
    signal: never,
    clock: fastClock,
  });
  const opening = openSender({ connection: source, ends: ends.source, signal: never, clock: fastClock });
  opening.catch(() => undefined);
  const chunks = receiver.chunks()[Symbol.asyncIterator]();
  await expect(chunks.next()).rejects.toMatchObject({
    code: "refused",
    message: expect.stringContaining("n1"),
  });
  await expect(opening).rejects.toMatchObject({ code: "refused", message: expect.stringContaining("key") });
});

test("a node of which the cluster knows no key, or one of low order, gets no stream", async () => {
  for (const peerKey of [new Uint8Array(0), new Uint8Array(32)]) {
    const { source: ends } = pairOfEnds(`hostile-${++migrations}`);
    await expect(
      openSender({ connection: source, ends: { ...ends, peerKey }, signal: never }),
    ).rejects.toMatchObject({ code: "refused", message: expect.stringContaining("n2") });
  }
});

test("a sender that missed the word of completion hears it again after the receiver is disposed", async () => {
  const ends = pairOfEnds(`hostile-${++migrations}`);
  let lost = 0;
  let all = false;
  const ports = { source: servers.source.port, target: servers.target.port };
  await using _relay = await relay(ports, ends.source.migration, (bytes, _, to) =>
    to === "source" && all && lost++ < 3 ? [] : [bytes],
  );
  const sending = (async () => {
    await using sender = await openSender({
      connection: source,
      ends: ends.source,
      signal: never,
      idleTimeoutMs: IDLE_MS,
      clock: askingClock,
    });
    await sender.write(Buffer.from("all there is"));
    all = true;
    await sender.finish();
  })();
  {
    await using receiver = await openReceiver({ connection: target, ends: ends.target, signal: never });
    for await (const chunk of receiver.chunks()) expect(Buffer.from(chunk).toString()).toBe("all there is");
  }
  await sending;
  expect(lost).toBeGreaterThanOrEqual(3);
});
