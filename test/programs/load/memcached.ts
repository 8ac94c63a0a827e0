import { createHash, randomBytes } from "node:crypto";

import type { Connection } from "./connection.ts";

const KEYS = 200;
const MAXIMUM_VALUE_BYTES = 32 * 1024;

/** A client of memcached that knows what it has stored: sets, gets and counts in its own part of the keys. */
export class MemcachedConversation {
  readonly #connection: Connection;
  readonly #name: string;
  readonly #digests = new Map<string, string>();
  #count = 0;

  constructor(connection: Connection, name: string) {
    this.#connection = connection;
    this.#name = name;
  }

  /** One set, one get and one incr. Answers what was wrong with their answers, "" for nothing. */
  async exchange(): Promise<string> {
    if (this.#count === 0) {
      const stored = await this.#set(`${this.#name}:count`, Buffer.from("0"));
      if (stored !== "STORED") return `'${stored}' to the counter's set`;
    }
    const key = `${this.#name}:${Math.floor(Math.random() * KEYS)}`;
    const value = randomBytes(1 + Math.floor(Math.random() * MAXIMUM_VALUE_BYTES));
    const stored = await this.#set(key, value);
    if (stored !== "STORED") return `'${stored}' to a set`;
    this.#digests.set(key, digestOf(value));
    this.#connection.write(`incr ${this.#name}:count 1\r\n`);
    const count = await this.#connection.line();
    this.#count += 1;
    if (count !== String(this.#count)) return `${count} from incr, not ${this.#count}`;
    const asked = [...this.#digests.keys()][Math.floor(Math.random() * this.#digests.size)] ?? key;
    return (await this.#isRight(asked)) ? "" : `another value of ${asked} than was stored`;
  }

  /** Keys whose value is not what was stored. */
  async wrongKeys(): Promise<number> {
    let wrong = 0;
    for (const key of this.#digests.keys()) if (!(await this.#isRight(key))) wrong += 1;
    return wrong;
  }

  get work(): number {
    return this.#count;
  }

  async #set(key: string, value: Buffer): Promise<string> {
    this.#connection.write(`set ${key} 0 0 ${value.length}\r\n`);
    this.#connection.write(value);
    this.#connection.write("\r\n");
    return await this.#connection.line();
  }

  async #isRight(key: string): Promise<boolean> {
    this.#connection.write(`get ${key}\r\n`);
    const [word, , , length] = (await this.#connection.line()).split(" ");
    if (word !== "VALUE") return false;
    const value = await this.#connection.bytes(Number(length));
    await this.#connection.line();
    return (await this.#connection.line()) === "END" && digestOf(value) === this.#digests.get(key);
  }
}

function digestOf(value: Buffer): string {
  return createHash("sha256").update(value).digest("hex");
}
