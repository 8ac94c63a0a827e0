/** What happens to the messages of an image stream on their way: a NATS that loses, repeats and spoils them. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export const DAMAGES = ["drop", "duplicate", "reorder", "corrupt", "truncate"] as const;
export type Damage = (typeof DAMAGES)[number];

interface Order {
  readonly damage: Damage;
  /** Each so many messages one is damaged. */
  readonly every: number;
}

const ORDER = "stream-damage.json";

export const orderDamage = (folder: string, order: Order): void =>
  writeFileSync(join(folder, ORDER), JSON.stringify(order));
export const withdrawDamage = (folder: string): void => rmSync(join(folder, ORDER), { force: true });

export class StreamDamage {
  readonly #file: string;
  #passed = 0;
  #heldBack: Uint8Array | undefined;

  constructor(folder: string) {
    this.#file = join(folder, ORDER);
  }

  /** What is to be sent in place of this message. */
  pass(message: Uint8Array): Uint8Array[] {
    const order = this.#order();
    const late = this.#heldBack === undefined ? [] : [this.#heldBack];
    this.#heldBack = undefined;
    this.#passed += 1;
    if (order === undefined || this.#passed % order.every !== 0) return [message, ...late];
    switch (order.damage) {
      case "drop":
        return late;
      case "duplicate":
        return [message, message, ...late];
      case "reorder":
        // The sender may use its buffer again.
        this.#heldBack = Uint8Array.from(message);
        return late;
      case "corrupt": {
        const spoiled = Uint8Array.from(message);
        const at = (this.#passed * 7919) % spoiled.length;
        spoiled[at] = (spoiled[at] ?? 0) ^ 0x5a;
        return [spoiled, ...late];
      }
      case "truncate":
        return [message.slice(0, Math.floor(message.length / 2)), ...late];
    }
  }

  #order(): Order | undefined {
    try {
      return JSON.parse(readFileSync(this.#file, "utf8")) as Order;
    } catch {
      return undefined; // none is asked for
    }
  }
}
