/**
 * The request of a client that is being worked on. It is carried beside the calls and not in them, because every call
 * that changes something may be one that a client repeats.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { GodwitError } from "../../proto/contract/error.ts";
import { isId } from "../../proto/contract/ids.ts";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "../state/cluster.ts";

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

/** Under the request's id, if it is the request's first change. */
export const asRequested = (command: Command): Command => {
  const id = takeRequestId();
  return id === undefined ? command : { ...command, requestId: id };
};

/** The request was made before, and only its answer was lost. */
export const isRequestDone = ({ index }: Cluster): boolean => index.requests.has(requestId() ?? "");

/** Of the several things that one request begins: the same wherever and whenever it is made again. */
export const idWithin = (request: string, number: number): string =>
  BigInt.asUintN(64, BigInt(`0x${request}`) + BigInt(number))
    .toString(16)
    .padStart(16, "0");
