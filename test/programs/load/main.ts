/**
 * A load generator that checks every answer: so many TCP connections for its whole life, each with one request after
 * the other. Commands come as lines on standard input, each is answered by one line of JSON:
 *
 *   mark    what happened since the last mark: see Window
 *   check   reads back everything that was stored: how much is not what it was
 *   end     stops
 *
 * Run as: load/main.ts http|memcached ADDRESS PORT CONNECTIONS
 */
import { setTimeout as delay } from "node:timers/promises";
import { createInterface } from "node:readline";

import type { Window as ClientWindow } from "../../demo/redis-client.ts";
import { Connection } from "./connection.ts";
import { HttpConversation } from "./http.ts";
import { MemcachedConversation } from "./memcached.ts";

/** Between two requests of one connection: the machine is to have time for the moves. */
const PAUSE_MS = 2;

const [protocol = "", host = "", port = "", count = ""] = process.argv.slice(2);
const fresh = { requests: 0, longestMs: 0, wrong: 0, lost: 0, error: "" };
let window = { ...fresh };
/** These clients count nothing but their requests. */
type Window = Omit<ClientWindow, "counter">;

const sentAt = new Map<number, number>();
let ended = false;

async function converse(index: number, conversation: { exchange(): Promise<string> }): Promise<void> {
  while (!ended) {
    const startedAt = performance.now();
    sentAt.set(index, startedAt);
    try {
      const wrong = await conversation.exchange();
      if (wrong !== "") window.wrong += 1;
      window.error ||= wrong;
    } catch (error) {
      window.lost += 1;
      window.error ||= `connection ${index}: ${error instanceof Error ? error.message : String(error)}`;
      return;
    } finally {
      sentAt.delete(index);
    }
    window.requests += 1;
    window.longestMs = Math.max(window.longestMs, performance.now() - startedAt);
    await delay(PAUSE_MS);
  }
}

const conversations = await Promise.all(
  Array.from({ length: Number(count) }, async (_, index) => {
    const connection = await Connection.open(host, Number(port));
    return protocol === "http"
      ? new HttpConversation(connection)
      : new MemcachedConversation(connection, `load${index}`);
  }),
);
let loops = conversations.map((conversation, index) => converse(index, conversation));

function mark(): Window {
  // A request that still waits counts with what it has waited.
  const longestMs = Math.max(window.longestMs, ...[...sentAt.values()].map((at) => performance.now() - at));
  const work = Math.min(...conversations.map((conversation) => conversation.work));
  const answer = { ...window, longestMs, connections: conversations.length, work };
  window = { ...fresh };
  return answer;
}

async function check(): Promise<{ wrong: number }> {
  ended = true;
  await Promise.all(loops);
  let wrong = 0;
  for (const conversation of conversations)
    if (conversation instanceof MemcachedConversation) wrong += await conversation.wrongKeys();
  ended = false;
  loops = conversations.map((conversation, index) => converse(index, conversation));
  return { wrong };
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "end") break;
  let answer: unknown;
  try {
    answer = line === "mark" ? mark() : await check();
  } catch (error) {
    answer = { error: error instanceof Error ? error.message : String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
