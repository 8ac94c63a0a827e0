/**
 * The request of a client that is being worked on. It is carried beside the calls and not in them, because every call
 * that changes something may be one that a client repeats.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { GodwitError } from "../../proto/contract/error.ts";
import { isId } from "../../proto/contract/ids.ts";

interface Request {
  readonly id: string;
  taken: boolean;
}

const present = new AsyncLocalStorage<Request>();

/**
 * Runs `work` as the request `id` (16 hexadecimal digits, chosen by the client). The first thing that it changes is
 * changed once, however often the request is made.
 */
export const withRequest = <T>(id: string, work: () => T): T => {
  if (!isId(id)) throw new GodwitError("invalid", `${JSON.stringify(id)} is no request id`);
  return present.run({ id, taken: false }, work);
};

export const requestId = (): string | undefined => present.getStore()?.id;

/** For the first change of the request; undefined for those after it, and outside of requests. */
export const takeRequestId = (): string | undefined => {
  const request = present.getStore();
  if (request === undefined || request.taken) return undefined;
  request.taken = true;
  return request.id;
};
