/**
 * The bench's client of a redis, a relative of the demo's: one connection counts, one request after the other, every
 * answer checked; a second one may overwrite stored keys at a given rate. Commands come as lines on standard input,
 * each is answered by one line of JSON:
 *
 *   fill MEGABYTES   stores that much in keys, and begins to count
 *   rate MB/S        overwrites keys at this rate from now on; 0 stops
 *   mark             once requests are answered again: what happened since the last mark (LoadWindow)
 *   end              stops
 *
 * Run as: redis-load.ts ADDRESS
 */
import { randomBytes, randomInt } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";

import { Redis } from "ioredis";

import type { LoadWindow } from "./load-client.ts";

const VALUE_BYTES = 64 * 1024;
const MEGABYTE = 1024 * 1024;
const COUNTER = "bench:counter";
/** Answers that show that the container is back, and how long to wait for them. */
const SETTLED_ANSWERS = 20;
const SETTLE_TIMEOUT_MS = 30_000;
const WRITE_TICK_MS = 10;
/** What could not be written while the container stood still is not made up for beyond this. */
const WRITE_BACKLOG_MS = 50;

function connect(host: string): Redis {
  // No second chance of any kind: a connection that breaks is a result.
  return new Redis({
    host,
    port: 6379,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: true,
    connectTimeout: 10_000,
  });
}

class BenchLoad {
  readonly #counter: Redis;
  readonly #writer: Redis;
  /** Values are windows into this, so that making them costs nothing while something is measured. */
  readonly #noise = randomBytes(16 * MEGABYTE);
  #keys = 0;
  #expected = 0;
  #window = { requests: 0, longestMs: 0, wrong: 0, lost: 0, writtenBytes: 0, error: "" };
  #broken = false;
  #ended = false;
  #rateBytesPerMs = 0;
  #oldest: number | undefined;
  #counting: Promise<void> = Promise.resolve();
  #writing: Promise<void> = Promise.resolve();

  constructor(host: string) {
    this.#counter = connect(host);
    this.#writer = connect(host);
    for (const connection of [this.#counter, this.#writer])
      connection.on("error", (error: Error) => (this.#window.error ||= error.message));
  }

  #value(): Buffer {
    const start = randomInt(this.#noise.length - VALUE_BYTES);
    return this.#noise.subarray(start, start + VALUE_BYTES);
  }

  async fill(megabytes: number): Promise<void> {
    this.#keys = Math.max(1, Math.ceil((megabytes * MEGABYTE) / VALUE_BYTES));
    for (let first = 0; first < this.#keys; first += 64) {
      const batch = this.#counter.pipeline();
      // Truly random values: what is alike would be sent, and compressed, for less.
      for (let key = first; key < Math.min(first + 64, this.#keys); key += 1)
        batch.set(`bench:${key}`, randomBytes(VALUE_BYTES));
      const answers = await batch.exec();
      if (answers === null || answers.some(([error]) => error !== null))
        throw new Error("redis did not take the keys");
    }
    await this.#counter.set(COUNTER, 0);
    this.#counting = this.#count();
    this.#writing = this.#write();
  }

  rate(megabytesPerSecond: number): void {
    this.#rateBytesPerMs = (megabytesPerSecond * MEGABYTE) / 1000;
  }

  #fail(error: unknown): void {
    this.#broken = true;
    this.#window.lost += 1;
    this.#window.error ||= error instanceof Error ? error.message : String(error);
  }

  async #count(): Promise<void> {
    while (!this.#ended && !this.#broken) {
      const sentAt = performance.now();
      this.#oldest = sentAt;
      try {
        const answer = await this.#counter.incr(COUNTER);
        this.#expected += 1;
        if (answer !== this.#expected) {
          this.#window.wrong += 1;
          this.#expected = answer;
        }
      } catch (error) {
        this.#fail(error);
        return;
      } finally {
        this.#oldest = undefined;
      }
      this.#window.requests += 1;
      this.#window.longestMs = Math.max(this.#window.longestMs, performance.now() - sentAt);
    }
  }

  async #write(): Promise<void> {
    let lastMs = performance.now();
    let dueBytes = 0;
    while (!this.#ended && !this.#broken) {
      await delay(WRITE_TICK_MS);
      const nowMs = performance.now();
      dueBytes += Math.min(nowMs - lastMs, WRITE_BACKLOG_MS) * this.#rateBytesPerMs;
      lastMs = nowMs;
      const batch: Promise<unknown>[] = [];
      for (; dueBytes >= VALUE_BYTES; dueBytes -= VALUE_BYTES)
        batch.push(this.#writer.set(`bench:${randomInt(this.#keys)}`, this.#value()));
      try {
        await Promise.all(batch);
      } catch (error) {
        this.#fail(error);
        return;
      }
      this.#window.writtenBytes += batch.length * VALUE_BYTES;
    }
  }

  /** A stall is over when answers come again; one that is not over within the time counts with what it has lasted. */
  async mark(): Promise<LoadWindow> {
    const endMs = performance.now() + SETTLE_TIMEOUT_MS;
    const goal = this.#window.requests + SETTLED_ANSWERS;
    while (this.#window.requests < goal && !this.#broken && performance.now() < endMs) await delay(5);
    if (this.#oldest !== undefined)
      this.#window.longestMs = Math.max(this.#window.longestMs, performance.now() - this.#oldest);
    const settled = this.#window.requests >= goal;
    const window = { ...this.#window, intact: settled && !this.#broken && this.#window.wrong === 0 };
    if (!settled) window.error ||= `no answer within ${SETTLE_TIMEOUT_MS} ms`;
    this.#window = { requests: 0, longestMs: 0, wrong: 0, lost: 0, writtenBytes: 0, error: "" };
    return window;
  }

  async end(): Promise<void> {
    this.#ended = true;
    // Requests that still wait are failed by this, which ends the loops.
    this.#counter.disconnect();
    this.#writer.disconnect();
    await Promise.all([this.#counting, this.#writing]);
  }
}

const load = new BenchLoad(process.argv[2] ?? "127.0.0.1");
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, argument] = line.split(" ");
  let answer: object = {};
  try {
    if (verb === "fill") await load.fill(Number(argument));
    else if (verb === "rate") load.rate(Number(argument));
    else if (verb === "mark") answer = await load.mark();
    else await load.end();
  } catch (error) {
    answer = { failure: error instanceof Error ? error.message : String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
  if (verb === "end") break;
}
process.exit(0);
