import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { connect, type Socket } from "node:net";

import { GodwitError } from "../../proto/contract/error.ts";
import { encodePageWords, PAGES_SOCKET, type PageWord, PageWordReader } from "../filler/page-words.ts";

/** The agent's end of the line to a filler whose pages follow: see filler/page-line.ts. */
export class FillerLine implements Disposable {
  readonly #socket: Socket;
  readonly #reader = new PageWordReader();
  readonly #lacking: PageWord[] = [];
  #isTold = false;
  #awaited: PageWord[] = [];
  #failure: GodwitError | undefined;
  #news = Promise.withResolvers<void>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (piece: Buffer) => this.#hear(piece));
    socket.on("error", () => undefined); // "close" comes next
    socket.once("close", () => {
      this.#failure = new GodwitError("unavailable", "what fills the container's memory has hung up");
      this.#tell();
    });
  }

  static async call(imagesDir: string, signal: AbortSignal): Promise<FillerLine> {
    // The folder's own path may be longer than a socket's can be.
    const folder = openSync(imagesDir, "r");
    try {
      const socket = connect(`/proc/self/fd/${folder}/${PAGES_SOCKET}`);
      try {
        await once(socket, "connect", { signal });
      } catch (error) {
        socket.destroy();
        throw error;
      }
      return new FillerLine(socket);
    } finally {
      closeSync(folder);
    }
  }

  /** What it lacked when it was called. */
  async lacking(): Promise<readonly PageWord[]> {
    while (!this.#isTold) await this.#more();
    return this.#lacking;
  }

  /** Resolves as soon as somebody waits for pages that were not asked for before. */
  async awaited(): Promise<readonly PageWord[]> {
    while (this.#awaited.length === 0) await this.#more();
    return this.#awaited.splice(0);
  }

  /** These have come. */
  arrived(word: PageWord): void {
    this.#socket.write(encodePageWords([word]));
  }

  #hear(piece: Uint8Array): void {
    for (const word of this.#reader.read(piece)) {
      if (word.pages === 0) this.#isTold = true;
      else (this.#isTold ? this.#awaited : this.#lacking).push(word);
    }
    this.#tell();
  }

  async #more(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    await this.#news.promise;
  }

  #tell(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
