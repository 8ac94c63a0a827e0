import { availableParallelism } from "node:os";

import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";
import { addressOf } from "./sockets.ts";

/**
 * zstd on other threads than the event loop's, which zstd-napi has no call for: Debian's own library (dpkg needs it too),
 * called on threads of libuv's pool. Where the link is fast, compressing is two thirds of what a stream's sender does.
 */
const library = koffi.load("libzstd.so.1");
const createContext = library.func("void *ZSTD_createCCtx()");
const compressWith = library.func(
  "size_t ZSTD_compressCCtx(void *context, uintptr_t room, size_t room_bytes, uintptr_t bytes, size_t length, int level)",
);
const isError = library.func("uint32_t ZSTD_isError(size_t code)");

/** libuv's own number of threads (https://docs.libuv.org/en/v1.x/threadpool.html). */
const POOL_THREADS = Number(process.env["UV_THREADPOOL_SIZE"] ?? 4);
/** These go on reading files, and waiting for sockets (readiness.ts). */
const OTHERS_THREADS = 4;

/** Compresses up to so many pieces at a time. Contexts are kept for the next pieces: making one takes longer. */
export class CompressingThreads {
  readonly count: number;
  readonly #contexts: unknown[] = [];
  #busy = 0;

  constructor(count: number) {
    this.count = Math.max(0, count);
  }

  /** Not all are at work. */
  get isFree(): boolean {
    return this.#busy < this.count;
  }

  /** Answers the length of what lies in `room` then; neither buffer may be touched before. Only when one `isFree`. */
  compress(bytes: Uint8Array, room: Uint8Array, level: number): Promise<number> {
    if (!this.isFree) throw new RangeError("all threads are at work");
    this.#busy += 1;
    const context: unknown = this.#contexts.pop() ?? createContext();
    return new Promise((resolve, reject) => {
      const end = (error: Error | null, result: number | bigint): void => {
        this.#busy -= 1;
        this.#contexts.push(context);
        // Both are named here, and so kept, until the thread has let go of them.
        if (error === null && isError(result) === 0 && Number(result) <= room.byteLength)
          resolve(Number(result));
        else
          reject(
            new GodwitError("internal", `zstd could not compress ${bytes.byteLength} bytes`, {
              cause: error,
            }),
          );
      };
      compressWith.async(
        ...[context, addressOf(room), room.byteLength, addressOf(bytes), bytes.byteLength, level],
        end,
      );
    });
  }
}

/** All streams' of this process: one core is the event loop's. */
export const COMPRESSING_THREADS = new CompressingThreads(
  Math.min(availableParallelism() - 1, POOL_THREADS - OTHERS_THREADS),
);
