/**
 * npm run bench:stream [-- --megabytes 512] [--rounds 5] [--threads 0,1,3]
 *
 * How fast an image stream is when nothing but it is at work: pages in 4 MiB buffers, from one thread through a real
 * nats-server on the loopback to another thread that takes them in and drops them, with so many threads that compress
 * beside the sender's. What the sender's own thread takes of a core says how fast it would be if nothing else were short
 * of cores, as sender, receiver and nats-server are here. It asserts nothing.
 */
import { randomBytes } from "node:crypto";
import { availableParallelism } from "node:os";
import { once } from "node:events";
import { parseArgs } from "node:util";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

import { connect } from "@nats-io/transport-node";
import Table from "cli-table3";

import type { StreamEnds } from "../../agent/stream/handshake.ts";
import { CompressingThreads } from "../../agent/native/zstd-threads.ts";
import { openReceiver } from "../../agent/stream/receiver.ts";
import { openSender } from "../../agent/stream/sender.ts";
import { pairOfEnds } from "../../agent/stream/testing/ends.ts";
import { startNatsServer } from "../../agent/stream/testing/nats-server.ts";
import { median } from "./statistics.ts";

const MIB = 1024 * 1024;
const BUFFER_BYTES = 4 * MIB;
/** That many different buffers, so that no cache holds them. */
const BUFFERS = 16;
const never = new AbortController().signal;

interface ReceiverData {
  readonly port: number;
  readonly ends: StreamEnds;
}

const text = (seed: number): string =>
  `{"id":${seed},"name":"user-${(seed * 7919) % 100_003}","score":${Math.sqrt(seed)},"since":"2026-0${seed % 9}"}`;
function records(first: number): Buffer {
  const buffer = Buffer.alloc(BUFFER_BYTES);
  for (let at = 0, seed = first; at < BUFFER_BYTES; seed += 1) at += buffer.write(text(seed), at, "latin1");
  return buffer;
}

const CONTENTS: Readonly<Record<string, (index: number) => Buffer>> = {
  records: (index) => records(index * 100_000),
  "random bytes": () => randomBytes(BUFFER_BYTES),
};

async function receive({ port, ends }: ReceiverData): Promise<void> {
  const connection = await connect({ port });
  await using receiver = await openReceiver({ connection, ends, signal: never });
  parentPort?.postMessage("ready");
  let bytes = 0;
  for await (const piece of receiver.chunks()) bytes += piece.byteLength;
  parentPort?.postMessage(bytes);
  await connection.close();
}

interface Stream {
  readonly port: number;
  readonly name: string;
  readonly buffers: readonly Buffer[];
  readonly megabytes: number;
  readonly threads: number;
}

/** MB/s, bytes sent for one of content, and MB/s for each second that the sender's thread was at work. */
async function measure({ port, name, buffers, megabytes, threads }: Stream): Promise<readonly number[]> {
  const ends = pairOfEnds(`bench-${name.replaceAll(" ", "-")}-${Math.random()}`);
  const worker = new Worker(new URL(import.meta.url), { workerData: { port, ends: ends.target } });
  const connection = await connect({ port });
  await once(worker, "message");
  await using sender = await openSender({
    connection,
    ends: ends.source,
    signal: never,
    threads: new CompressingThreads(threads),
  });
  const cpuBefore = process.threadCpuUsage();
  const beganAt = performance.now();
  for (let sent = 0, index = 0; sent < megabytes * MIB; sent += BUFFER_BYTES, index += 1)
    await sender.write(buffers[index % buffers.length] ?? Buffer.alloc(0));
  await sender.finish();
  const seconds = (performance.now() - beganAt) / 1000;
  const { user, system } = process.threadCpuUsage(cpuBefore);
  await once(worker, "exit");
  const megabytesSent = sender.rawBytes / 1e6;
  const figures = [
    megabytesSent / seconds,
    sender.sentBytes / sender.rawBytes,
    megabytesSent / ((user + system) / 1e6),
  ];
  await connection.close();
  return figures;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      megabytes: { type: "string", default: "512" },
      rounds: { type: "string", default: "5" },
      threads: { type: "string", default: "0,1,3" },
    },
  });
  const table = new Table({
    head: ["content", "threads", "MB/s", "sent / content", "MB/s for the sender's core"],
    colAligns: ["left", "right", "right", "right", "right"],
    style: { head: [], border: [] },
  });
  await using server = await startNatsServer();
  const { port } = server;
  const megabytes = Number(values.megabytes);
  for (const [name, content] of Object.entries(CONTENTS)) {
    const buffers = Array.from({ length: BUFFERS }, (_, index) => content(index));
    const kinds = values.threads.split(",").map((threads) => ({
      threads: Number(threads),
      rows: [] as (readonly number[])[],
    }));
    // Side by side: what else the machine does meets all of them.
    for (let round = 0; round < Number(values.rounds); round += 1)
      for (const { rows, threads } of kinds)
        rows.push(await measure({ port, name, buffers, megabytes, threads }));
    for (const { rows, threads } of kinds) {
      const of = (column: number): number => median(rows.map((row) => row[column] ?? 0));
      table.push([name, threads, of(0).toFixed(0), of(1).toFixed(3), of(2).toFixed(0)]);
    }
  }
  process.stdout.write(`${availableParallelism()} cores\n${table.toString()}\n`);
}

await (isMainThread ? main() : receive(workerData as ReceiverData));
