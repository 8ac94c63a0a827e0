// An HTTP server as Node programs are: one event loop, timers, a worker thread, work in the thread pool.
import { createServer } from "node:http";
import { pbkdf2 } from "node:crypto";
import { Worker } from "node:worker_threads";

let total = 0;
let ticks = 0;
let fromWorker = 0;
const worker = new Worker(
  'import { parentPort } from "node:worker_threads"; let n = 0;' +
    "setInterval(() => parentPort.postMessage(n += 1), 20);",
  { eval: true },
);
worker.on("message", (number) => {
  if (number !== fromWorker + 1) throw new Error(`${number} from the worker after ${fromWorker}`);
  fromWorker = number;
});
setInterval(() => console.log(`tick ${(ticks += 1)}`), 100);

const served = new WeakMap();
const server = createServer(async (request, response) => {
  const serial = (served.get(request.socket) ?? 0) + 1;
  served.set(request.socket, serial);
  const parts = [];
  for await (const part of request) parts.push(part);
  // A stop between its start and its end is a stop of the thread pool.
  await new Promise((resolve) => pbkdf2("a", "b", 10, 16, "sha256", resolve));
  response.setHeader("x-serial", serial);
  response.setHeader("x-total", (total += 1));
  response.setHeader("x-work", fromWorker);
  response.end(Buffer.concat(parts));
});
server.keepAliveTimeout = 3_600_000;
server.requestTimeout = 0;
server.listen(8080);
