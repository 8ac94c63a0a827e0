import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, connect } from "node:net";
import { Worker } from "node:worker_threads";

import { expect, test, vi } from "vitest";

import { SocketQueues } from "./socket-queues.ts";

/** A server whose thread does nothing any more once it listens, so that nothing is accepted. */
const DEAF = `
const { createServer } = require("node:net");
const { parentPort } = require("node:worker_threads");
const server = createServer().listen(0, process.argv[2] ?? "127.0.0.1", () => {
  parentPort.postMessage(server.address().port);
  parentPort.once("message", () => {
    parentPort.postMessage("deaf");
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  });
});`;

/** Reads what has come only when it is told to. */
const DEAF_TO_DATAGRAMS = `
const { parentPort, receiveMessageOnPort } = require("node:worker_threads");
const socket = require("node:dgram").createSocket("udp4");
socket.bind(0, "127.0.0.1", () => {
  parentPort.postMessage(socket.address().port);
  setImmediate(() => {
    while (receiveMessageOnPort(parentPort) === undefined)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  });
});`;

test.each(["127.0.0.1", "::1"])("connections to %s that nobody accepts are counted", async (host) => {
  using queues = SocketQueues.openIn("/proc/self/ns/net");
  const worker = new Worker(DEAF, { eval: true, argv: [host] });
  try {
    const [port] = (await once(worker, "message")) as [number];
    worker.postMessage("stop");
    await once(worker, "message");
    const before = queues.connections();
    const clients = [connect(port, host), connect(port, host)];
    await Promise.all(clients.map((client) => once(client, "connect")));
    // Other tests listen on this host too.
    await vi.waitFor(() => expect(queues.connections()).toBe(before + 2));
    for (const client of clients) client.destroy();
  } finally {
    await worker.terminate();
  }
});

test("connections that are accepted are not", async () => {
  using queues = SocketQueues.openIn("/proc/self/ns/net");
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const before = queues.connections();
  const { port } = server.address() as { port: number };
  const client = connect(port, "127.0.0.1");
  await Promise.all([once(client, "connect"), once(server, "connection")]);
  await vi.waitFor(() => expect(queues.connections()).toBe(before));
  client.destroy();
  server.close();
});

test("datagrams that nobody has read are counted, and those that somebody has are not", async () => {
  using queues = SocketQueues.openIn("/proc/self/ns/net");
  const worker = new Worker(DEAF_TO_DATAGRAMS, { eval: true });
  const socket = createSocket("udp4");
  try {
    const [port] = (await once(worker, "message")) as [number];
    const before = queues.datagramBytes();
    socket.send("unread", port, "127.0.0.1");
    await vi.waitFor(() => expect(queues.datagramBytes()).toBeGreaterThan(before));
    worker.postMessage("read");
    await vi.waitFor(() => expect(queues.datagramBytes()).toBe(before));
  } finally {
    socket.close();
    await worker.terminate();
  }
});
