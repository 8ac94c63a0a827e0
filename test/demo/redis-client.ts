/**
 * A client of the demo's redis: one TCP connection for its whole life, one request after the other, every answer
 * checked. Commands come as lines on standard input, each is answered by one line of JSON:
 *
 *   fill MEGABYTES   stores that much in keys, and begins to count
 *   mark             what happened since the last mark: see Window
 *   check            reads all stored keys back and compares them
 *   end              stops
 *
 * Run as: redis-client.ts ADDRESS [MILLISECONDS between two requests]
 */
import { createHash, randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";

import { Redis } from "ioredis";

export interface Window {
  readonly requests: number;
  /** The longest that one request waited for its answer. */
  readonly longestMs: number;
  /** Answers that were not what they had to be. */
  readonly wrong: number;
  /** Requests that were never answered. */
  readonly lost: number;
  /** How often the connection was opened: 1 is the one at the start. */
  readonly connections: number;
  /** The counter, as of the last answer. */
  readonly counter: number;
  readonly error: string;
  /** How far a server says that it has come with work of its own, where it does. */
  readonly work?: number;
}

const VALUE_BYTES = 64 * 1024;
const COUNTER = "demo:counter";

class RedisLoad {
  readonly #redis: Redis;
  readonly #digests = new Map<string, string>();
  #connections = 0;
  #expected = 0;
  #window = { requests: 0, longestMs: 0, wrong: 0, lost: 0, error: "" };
  #ended = false;
  #loop: Promise<void> = Promise.resolve();
  #oldest: number | undefined;

  readonly #pauseMs: number;

  constructor(host: string, pauseMs: number) {
    this.#pauseMs = pauseMs;
    // No second chance of any kind: a connection that breaks is a failure of the demo, not of the client.
    this.#redis = new Redis({
      host,
      port: 6379,
      retryStrategy: () => null,
      maxRetriesPerRequest: 0,
      autoResendUnfulfilledCommands: false,
      enableOfflineQueue: true,
      connectTimeout: 10_000,
    });
    this.#redis.on("connect", () => (this.#connections += 1));
    this.#redis.on("error", (error: Error) => (this.#window.error ||= error.message));
  }

  async fill(megabytes: number): Promise<void> {
    const count = Math.ceil((megabytes * 1024 * 1024) / VALUE_BYTES);
    for (let index = 0; index < count; index += 64) {
      const batch = this.#redis.pipeline();
      for (let key = index; key < Math.min(index + 64, count); key += 1) {
        const value = randomBytes(VALUE_BYTES);
        this.#digests.set(`demo:${key}`, createHash("sha256").update(value).digest("hex"));
        batch.set(`demo:${key}`, value);
      }
      const answers = await batch.exec();
      if (answers === null || answers.some(([error]) => error !== null))
        throw new Error("redis did not take the keys");
    }
    await this.#redis.set(COUNTER, 0);
    this.#loop = this.#count();
  }

  async #count(): Promise<void> {
    while (!this.#ended) {
      const sentAt = performance.now();
      this.#oldest = sentAt;
      try {
        const answer = await this.#redis.incr(COUNTER);
        this.#expected += 1;
        if (answer !== this.#expected) {
          this.#window.wrong += 1;
          this.#expected = answer;
        }
      } catch (error) {
        this.#window.lost += 1;
        this.#window.error ||= error instanceof Error ? error.message : String(error);
        return;
      } finally {
        this.#oldest = undefined;
      }
      this.#window.requests += 1;
      this.#window.longestMs = Math.max(this.#window.longestMs, performance.now() - sentAt);
      if (this.#pauseMs > 0) await delay(this.#pauseMs);
    }
  }

  mark(): Window {
    // A request that still waits counts with what it has waited.
    if (this.#oldest !== undefined) {
      this.#window.longestMs = Math.max(this.#window.longestMs, performance.now() - this.#oldest);
    }
    const window = { ...this.#window, connections: this.#connections, counter: this.#expected };
    this.#window = { requests: 0, longestMs: 0, wrong: 0, lost: 0, error: "" };
    return window;
  }

  /** Keys whose value is no longer what was stored. */
  async check(): Promise<number> {
    let wrong = 0;
    for (const [key, digest] of this.#digests) {
      const value = await this.#redis.getBuffer(key);
      if (value === null || createHash("sha256").update(value).digest("hex") !== digest) wrong += 1;
    }
    return wrong;
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#loop;
    this.#redis.disconnect();
  }
}

const load = new RedisLoad(process.argv[2] ?? "127.0.0.1", Number(process.argv[3] ?? 0));
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, argument] = line.split(" ");
  let answer: unknown;
  try {
    if (verb === "fill") answer = await load.fill(Number(argument)).then(() => ({}));
    else if (verb === "mark") answer = load.mark();
    else if (verb === "check") answer = { wrong: await load.check() };
    else answer = await load.end().then(() => ({}));
  } catch (error) {
    answer = { error: error instanceof Error ? error.message : String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
  if (verb === "end") break;
}
process.exit(0);
