import { randomBytes } from "node:crypto";

import type { Connection } from "./connection.ts";

const MAXIMUM_BODY_BYTES = 16 * 1024;

/**
 * A client of the servers in ../workload: what it posts comes back, with how many requests the server has had on this
 * connection, how many its process has had, and how far the work has come that the process does by the way.
 */
export class HttpConversation {
  readonly #connection: Connection;
  #serial = 0;
  #total = 0;
  #work = 0;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** One request. Answers what was wrong with its answer, "" for nothing. */
  async exchange(): Promise<string> {
    const body = randomBytes(1 + Math.floor(Math.random() * MAXIMUM_BODY_BYTES));
    this.#connection.write(`POST / HTTP/1.1\r\nHost: server\r\nContent-Length: ${body.length}\r\n\r\n`);
    this.#connection.write(body);
    const status = await this.#connection.line();
    const headers = new Map<string, string>();
    for (let line = await this.#connection.line(); line !== ""; line = await this.#connection.line()) {
      const colon = line.indexOf(":");
      headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    const number = (name: string): number => Number(headers.get(name) ?? Number.NaN);
    const answer = await this.#connection.bytes(number("content-length"));
    const [serial, total, work] = [number("x-serial"), number("x-total"), number("x-work")];
    const before = { serial: this.#serial, total: this.#total, work: this.#work };
    [this.#serial, this.#total, this.#work] = [serial, total, work];
    if (status !== "HTTP/1.1 200 OK") return `the status '${status}'`;
    if (!answer.equals(body)) return `another body than what was sent, in request ${serial}`;
    if (serial !== before.serial + 1) return `request ${serial} of this connection after ${before.serial}`;
    if (!(total > before.total)) return `request ${total} of this process after ${before.total}`;
    if (!(work >= before.work)) return `work at ${work} after ${before.work}`;
    return "";
  }

  /** What the server did by the way. */
  get work(): number {
    return this.#work;
  }
}
