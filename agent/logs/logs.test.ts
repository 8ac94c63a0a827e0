import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { connect, createInbox, type NatsConnection, type Subscription } from "@nats-io/transport-node";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { logsSubject } from "../../proto/contract/subjects.ts";
import { LogChunk, LogsOpen, LogsOpened } from "../../proto/gen/godwit/v1/agent.ts";
import { TestNatsServer } from "../exec/testing/nats-server.ts";
import { LogWriter } from "../shim/log-store.ts";
import { type LogsService, serveLogs } from "./logs-service.ts";

const NODE = "n1";
const ID = "0123456789abcdef";
let logged = "";
const logger = pino({ level: "info" }, { write: (text: string) => (logged += text) });
let nats: TestNatsServer;
let agentSide: NatsConnection;
let apiSide: NatsConnection;
let service: LogsService;
let folder: string;
let log: LogWriter;

beforeAll(async () => {
  nats = await TestNatsServer.start();
}, 60_000);

afterAll(async () => {
  await nats[Symbol.asyncDispose]();
});

beforeEach(async () => {
  logged = "";
  folder = await mkdtemp(join(tmpdir(), "godwit-logs-"));
  log = LogWriter.open(folder);
  agentSide = await connect({ servers: nats.url });
  apiSide = await connect({ servers: nats.url });
  service = await start();
});

afterEach(async () => {
  await service[Symbol.asyncDispose]();
  await agentSide.close();
  await apiSide.close();
  log[Symbol.dispose]();
  await rm(folder, { recursive: true });
});

function start(presenceIntervalMs = 10_000): Promise<LogsService> {
  const signal = new AbortController().signal;
  const directoryOf = (id: string): string | undefined => (id === ID ? folder : undefined);
  return serveLogs({ connection: agentSide, node: NODE, directoryOf, logger, signal, presenceIntervalMs });
}

const line = (text: string): string => `o 2026-01-31T12:00:00.000Z ${text}\n`;
const write = (...texts: string[]): void => log.append(Buffer.from(texts.map(line).join("")), new Date());

/** The API's side of a session, as a test needs it. */
class Reader implements Disposable {
  readonly ended: Promise<string>;
  text = "";
  firstOffset: number | undefined;
  largestChunkBytes = 0;
  stopSubject = "";
  readonly #subscription: Subscription;
  #next: number | undefined;

  private constructor(subject: string) {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    this.#subscription = apiSide.subscribe(subject, {
      callback: (_, message) => {
        const { offset, data, end, reason } = LogChunk.decode(message.data);
        if (message.data.length === 0) return;
        this.firstOffset ??= offset;
        if (this.#next !== undefined && offset !== this.#next) resolve(`a hole at ${this.#next}`);
        this.#next = offset + data.length;
        this.largestChunkBytes = Math.max(this.largestChunkBytes, data.length);
        this.text += data.toString();
        if (end) resolve(reason);
      },
    });
  }

  static async open(open: Partial<LogsOpen>): Promise<Reader> {
    const outputSubject = createInbox();
    const reader = new Reader(outputSubject);
    const request = LogsOpen.encode(
      LogsOpen.fromPartial({ containerId: ID, tail: -1, outputSubject, ...open }),
    ).finish();
    const reply = await apiSide.request(logsSubject(NODE), request, { timeout: 5_000 });
    const { error, stopSubject } = LogsOpened.decode(reply.data);
    if (error !== "") {
      reader[Symbol.dispose]();
      throw new Error(error);
    }
    reader.stopSubject = stopSubject;
    return reader;
  }

  [Symbol.dispose](): void {
    this.#subscription.unsubscribe();
  }
}

test("all of a log, its last lines, none of them", async () => {
  write("one", "two", "three");
  using all = await Reader.open({});
  expect(await all.ended).toBe("done");
  expect(all.text).toBe(line("one") + line("two") + line("three"));
  using tail = await Reader.open({ tail: 2 });
  await tail.ended;
  expect(tail.text).toBe(line("two") + line("three"));
  expect(tail.firstOffset).toBe(line("one").length);
  using none = await Reader.open({ tail: 0 });
  await none.ended;
  expect(none.text).toBe("");
  expect(none.firstOffset).toBe(log.offset);
});

test("goes on from an offset", async () => {
  write("one", "two");
  using rest = await Reader.open({ fromOffset: line("one").length });
  await rest.ended;
  expect(rest.text).toBe(line("two"));
});

test("follows until the container has moved, with all that was written", async () => {
  write("one");
  using reader = await Reader.open({ follow: true, tail: 0 });
  await expect.poll(() => reader.firstOffset).toBe(log.offset);
  write("two");
  await expect.poll(() => reader.text).toBe(line("two"));
  write("three");
  await service.end(ID, "moved");
  expect(await reader.ended).toBe("moved");
  expect(reader.text).toBe(line("two") + line("three"));
});

test("other containers' readers stay", async () => {
  using reader = await Reader.open({ follow: true });
  await service.end("ffffffffffffffff", "removed");
  write("one");
  await expect.poll(() => reader.text).toBe(line("one"));
  await service.end(ID, "removed");
  expect(await reader.ended).toBe("removed");
});

test("a client that stops", async () => {
  using reader = await Reader.open({ follow: true });
  apiSide.publish(reader.stopSubject);
  expect(await reader.ended).toBe("done");
});

test("a client that died is noticed", async () => {
  await service[Symbol.asyncDispose]();
  service = await start(50);
  const reader = await Reader.open({ follow: true });
  reader[Symbol.dispose]();
  await expect.poll(() => logged, { timeout: 5_000 }).toContain("the reader of a log has gone");
});

test("a big log comes in bounded chunks without a hole", async () => {
  const text = "x".repeat(1000);
  for (let i = 0; i < 120; i += 1) write(...Array.from({ length: 100 }, () => text));
  using reader = await Reader.open({});
  expect(await reader.ended).toBe("done");
  expect(reader.firstOffset).toBe(0);
  expect(reader.text.length).toBe(12_000 * line(text).length);
  expect(reader.largestChunkBytes).toBeLessThanOrEqual(256 * 1024);
}, 20_000);

test("an interrupted connection tells the client to read on", async () => {
  write("one");
  using reader = await Reader.open({ follow: true });
  await expect.poll(() => reader.text).toBe(line("one"));
  await agentSide.reconnect();
  expect(await reader.ended).toMatch(/interrupted/);
});

test("refusals", async () => {
  await expect(Reader.open({ containerId: "ffffffffffffffff" })).rejects.toThrow(/not on this node/);
  await expect(Reader.open({ outputSubject: "godwit.report" })).rejects.toThrow(/no subject/);
  const garbage = await apiSide.request(logsSubject(NODE), Buffer.from([0x0a, 0xff]), { timeout: 5_000 });
  expect(LogsOpened.decode(garbage.data).error).toMatch(/no LogsOpen/);
});

test("stopping the service ends what is followed", async () => {
  using reader = await Reader.open({ follow: true });
  await service[Symbol.asyncDispose]();
  expect(await reader.ended).toMatch(/stopping/);
});
