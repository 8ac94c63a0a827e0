import { chmodSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";

import { GodwitError } from "../../proto/contract/error.ts";
import type { ContainerTable } from "./container-table.ts";
import type { ShimAnswer, ShimEvent, ShimRequest } from "./protocol.ts";

/** A request is small: two paths and two unfinished lines in base64. */
const REQUEST_BYTES = 256 * 1024;

/** The shim's socket. A client can do nothing but use the table; the socket's mode (0600) is the permission. */
export class ShimServer implements Disposable {
  readonly #table: ContainerTable;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  readonly #startedAtMs = Date.now();

  constructor(table: ContainerTable) {
    this.#table = table;
    this.#server = createServer((client) => this.#serve(client));
  }

  /** Refuses when another shim answers on this socket. */
  async listen(path: string): Promise<void> {
    if (await answers(path))
      throw new GodwitError("exists", `another shim is running: it answers on ${path}`);
    rmSync(path, { force: true });
    const umask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once("error", reject);
        this.#server.listen(path, resolve);
      });
    } catch (cause) {
      throw new GodwitError("internal", `cannot listen on ${path}: ${(cause as Error).message}`, { cause });
    } finally {
      process.umask(umask);
    }
    chmodSync(path, 0o600);
  }

  publish(event: ShimEvent): void {
    for (const client of this.#clients) send(client, event);
  }

  [Symbol.dispose](): void {
    this.#server.close();
    for (const client of this.#clients) client.destroy();
  }

  #serve(client: Socket): void {
    this.#clients.add(client);
    client.on("close", () => this.#clients.delete(client));
    client.on("error", () => client.destroy());
    client.setEncoding("utf8");
    let pending = "";
    client.on("data", (text: string) => {
      pending += text;
      for (let end = pending.indexOf("\n"); end >= 0; end = pending.indexOf("\n")) {
        const line = pending.slice(0, end);
        pending = pending.slice(end + 1);
        send(client, this.#answer(line));
      }
      if (pending.length > REQUEST_BYTES) client.destroy();
    });
    send(client, { event: "hello", shimPid: process.pid, startedAtMs: this.#startedAtMs });
  }

  #answer(line: string): ShimAnswer {
    let id = 0;
    try {
      const request = parseRequest(line);
      id = request.id;
      switch (request.op) {
        case "attach":
          return { id, ok: true, ...this.#table.attach(request) };
        case "setInit":
          this.#table.setInit(request.container, request.initPid, request.startTicks);
          return { id, ok: true };
        case "detach":
          return { id, ok: true, ...this.#table.detach(request.container) };
        case "status":
          return { id, ok: true, containers: this.#table.status() };
      }
    } catch (error) {
      const { message, code } = GodwitError.from(error);
      return { id, ok: false, error: message, code };
    }
  }
}

function parseRequest(line: string): ShimRequest & { id: number } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new GodwitError("invalid", "a request is not JSON", { cause });
  }
  const fields = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  const is = (type: string, ...names: string[]): boolean =>
    names.every((name) => typeof fields[name] === type);
  const optional = (type: string, name: string): boolean =>
    fields[name] === undefined || typeof fields[name] === type;
  const legal =
    is("number", "id") &&
    ((fields["op"] === "attach" &&
      is("string", "container", "dir", "stdout", "stderr") &&
      is("number", "initPid") &&
      optional("number", "startTicks") &&
      optional("object", "partial")) ||
      (fields["op"] === "setInit" &&
        is("string", "container") &&
        is("number", "initPid") &&
        optional("number", "startTicks")) ||
      (fields["op"] === "detach" && is("string", "container")) ||
      fields["op"] === "status");
  if (!legal) throw new GodwitError("invalid", `a request is malformed: ${line.slice(0, 200)}`);
  return value as ShimRequest & { id: number };
}

function send(client: Socket, message: ShimAnswer | ShimEvent): void {
  client.write(`${JSON.stringify(message)}\n`);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}
