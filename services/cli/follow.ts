/** Following something through an API that may be restarted meanwhile. */
import type { ClientReadableStream } from "@grpc/grpc-js";
import { messagesOf } from "./api-client.ts";
import { isUnreachable } from "./failure.ts";

/** A restart of the API takes seconds; after this long the cluster is taken for gone. */
const PATIENCE_MS = 60_000;
const RETRY_MS = 500;

/** The messages of `open`'s calls, opened anew when the API goes away. Ends when a call ends well. */
export async function* followStream<R>(
  open: () => ClientReadableStream<R>,
  signal: AbortSignal,
): AsyncGenerator<R> {
  let silentSinceMs: number | undefined;
  for (;;) {
    try {
      for await (const message of messagesOf(open(), signal)) {
        silentSinceMs = undefined;
        yield message;
      }
      signal.throwIfAborted();
      return;
    } catch (error) {
      const nowMs = performance.now();
      silentSinceMs ??= nowMs;
      if (signal.aborted || !isUnreachable(error) || nowMs - silentSinceMs > PATIENCE_MS) throw error;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, RETRY_MS);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    clearTimeout(timer);
    signal.throwIfAborted();
  }
}
