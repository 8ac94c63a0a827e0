/** What every verb gets: the API, standard streams, and what Ctrl-C means. */
import type { ApiClient } from "./api-client.ts";
import { apiAddresses } from "./address.ts";
import { EXIT, ExitWith } from "./failure.ts";

/** Where the API was looked for, for the error that says it is not there. */
export const lastAddress: { value: string | undefined } = { value: undefined };

export async function connectApi(flag: string | undefined): Promise<ApiClient> {
  const addresses = apiAddresses(flag, process.env);
  lastAddress.value = addresses.map(({ target }) => target).join();
  const { ApiClient } = await import("./api-client.ts");
  return new ApiClient(addresses);
}

/**
 * Runs `work`, which waits for something that goes on without us. Ctrl-C ends the waiting only; `hint` then says how to
 * follow it.
 */
export async function waitInterruptibly<T>(
  hint: () => string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const onSignal = (): void => controller.abort();
  process.once("SIGINT", onSignal);
  process.once("SIGTERM", onSignal);
  try {
    return await work(controller.signal);
  } catch (error) {
    if (!controller.signal.aborted) throw error;
    throw new ExitWith(EXIT.interrupted, hint());
  } finally {
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
  }
}

/** Progress and remarks: on standard error, and only for people. */
export const isWatched = (): boolean => process.stderr.isTTY;

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
