import type { Readable } from "node:stream";

import type { ExecOutcome } from "./outcome.ts";
import type { RuncExec } from "./runc-exec.ts";

export interface ShortOutcome extends ExecOutcome {
  /** The end of what it wrote to either stream. */
  readonly output: string;
}

const OUTPUT_BYTES = 4_096;
const KILL_WITHIN_MS = 5_000;

/** Waits for a command and keeps the end of its output; kills it when the signal aborts, and throws its reason then. */
export async function runShortCommand(
  start: () => Promise<RuncExec>,
  signal: AbortSignal,
): Promise<ShortOutcome> {
  await using exec = await start();
  const tail = new Tail();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  aborted.catch(() => undefined);
  const onAbort = (): void => reject(signal.reason as Error);
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    const read = Promise.all(exec.outputs.map(({ stream }) => tail.read(stream)));
    const outcome = await Promise.race([exec.exited, aborted]);
    await Promise.race([read, aborted]);
    return { ...outcome, output: tail.text };
  } catch (error) {
    await exec.kill(KILL_WITHIN_MS);
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

class Tail {
  #bytes = Buffer.alloc(0);

  get text(): string {
    return this.#bytes.toString("utf8");
  }

  async read(stream: Readable): Promise<void> {
    for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>)
      this.#bytes = Buffer.concat([this.#bytes, chunk]).subarray(-OUTPUT_BYTES);
  }
}
