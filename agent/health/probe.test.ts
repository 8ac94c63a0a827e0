/** In the test's own network namespace: how one is entered is the same for any. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTcpServer, type AddressInfo } from "node:net";

import { afterEach, beforeEach, expect, test } from "vitest";

import { OUTPUT_BYTES, probeHttp, probeTcp } from "./probe.ts";

const OWN = "/proc/self/ns/net";
const never = new AbortController().signal;
let server: Server;
let port: number;
let answer: (request: IncomingMessage, response: ServerResponse) => void;

beforeEach(async () => {
  server = createServer((request, response) => answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ({ port } = server.address() as AddressInfo);
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

/** One on which nobody listens any more. */
const freePort = async (): Promise<number> => {
  const other = createTcpServer();
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const { port: free } = other.address() as AddressInfo;
  await new Promise((resolve) => other.close(resolve));
  return free;
};

test("TCP: who listens is healthy, who does not says why", async () => {
  expect(await probeTcp(OWN, port, never)).toEqual({
    succeeded: true,
    output: `port ${port} takes connections`,
  });
  const free = await freePort();
  expect(await probeTcp(OWN, free, never)).toEqual({
    succeeded: false,
    output: `nothing answers on port ${free}: ECONNREFUSED`,
  });
});

test.each([
  [200, true],
  [302, true],
  [404, false],
  [503, false],
])("HTTP: a status of %i", async (status, succeeded) => {
  const seen: string[] = [];
  answer = (request, response) => {
    seen.push(`${request.method} ${request.url} ${request.headers.host}`);
    response.writeHead(status).end("because");
  };
  expect(await probeHttp(OWN, { port, path: "/health?deep=1" }, never)).toEqual({
    succeeded,
    output: `/health?deep=1 answers ${status}${succeeded ? "" : ": because"}`,
  });
  expect(seen).toEqual([`GET /health?deep=1 127.0.0.1:${port}`]);
});

test("HTTP: nobody there, no HTTP, and more than anybody wants to read", async () => {
  const free = await freePort();
  expect(await probeHttp(OWN, { port: free, path: "/" }, never)).toMatchObject({
    succeeded: false,
    output: expect.stringContaining("ECONNREFUSED"),
  });
  answer = (request) => request.socket.end("SSH-2.0-OpenSSH\r\n");
  expect((await probeHttp(OWN, { port, path: "/" }, never)).succeeded).toBe(false);
  answer = (_, response) => {
    response.writeHead(500);
    const more = (): void => {
      while (!response.destroyed && response.write("x".repeat(10_000)));
      response.once("drain", more);
    };
    more();
  };
  const flooded = await probeHttp(OWN, { port, path: "/" }, never);
  expect(flooded.succeeded).toBe(false);
  expect(flooded.output.length).toBeLessThanOrEqual(OUTPUT_BYTES);
});

test("a check that is called off ends at once, with the reason", async () => {
  const called = Promise.withResolvers<void>();
  answer = () => called.resolve();
  const controller = new AbortController();
  const probed = probeHttp(OWN, { port, path: "/" }, controller.signal);
  probed.catch(() => undefined);
  await called.promise;
  controller.abort(new Error("the container moves"));
  await expect(probed).rejects.toThrow("the container moves");
});
