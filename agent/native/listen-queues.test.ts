import { once } from "node:events";
import { createServer, connect } from "node:net";
import { Worker } from "node:worker_threads";

import { expect, test, vi } from "vitest";

import { ListenQueues } from "./listen-queues.ts";

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

test.each(["127.0.0.1", "::1"])("connections to %s that nobody accepts are counted", async (host) => {
  using queues = ListenQueues.openIn("/proc/self/ns/net");
  const worker = new Worker(DEAF, { eval: true, argv: [host] });
  try {
    const [port] = (await once(worker, "message")) as [number];
    worker.postMessage("stop");
    await once(worker, "message");
    const before = queues.waiting();
    const clients = [connect(port, host), connect(port, host)];
    await Promise.all(clients.map((client) => once(client, "connect")));
    // Other tests listen on this host too.
    await vi.waitFor(() => expect(queues.waiting()).toBe(before + 2));
    for (const client of clients) client.destroy();
  } finally {
    await worker.terminate();
  }
});

test("connections that are accepted are not", async () => {
  using queues = ListenQueues.openIn("/proc/self/ns/net");
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const before = queues.waiting();
  const { port } = server.address() as { port: number };
  const client = connect(port, "127.0.0.1");
  await Promise.all([once(client, "connect"), once(server, "connection")]);
  await vi.waitFor(() => expect(queues.waiting()).toBe(before));
  client.destroy();
  server.close();
});
