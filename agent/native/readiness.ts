import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";
import { failed } from "./errno.ts";

/**
 * Waits until descriptors can be read, all of them on one thread of libuv's pool (epoll(7)). The pool has few threads, for
 * the whole process: were each blocked read to take one, a handful of CRIUs at work would stop all access to files, and
 * with it all that they themselves wait for.
 */
const libc = koffi.load("libc.so.6");
const epoll_create1 = libc.func("int epoll_create1(int flags)");
const epoll_ctl = libc.func("int epoll_ctl(int epoll, int operation, int fd, const void *event)");
const epoll_wait = libc.func("int epoll_wait(int epoll, void *events, int count, int timeout)");

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
/** Errors and the other side's end are told unasked. */
const EPOLLIN = 1;
/** struct epoll_event: packed on x86_64; in its data the descriptor and the waiter's number. */
const EVENT_BYTES = 12;
const DESCRIPTOR_AT = 4;
const NUMBER_AT = 8;
const MOST_EVENTS = 64;
const WITHOUT_END = -1;

interface Waiter extends PromiseWithResolvers<void> {
  /** A descriptor that was closed may be another's by the time that its event is heard. */
  readonly number: number;
}

interface Waiting {
  readonly epoll: number;
  readonly events: Buffer;
  /** By descriptor. */
  readonly waiters: Map<number, Waiter>;
}

/** Made when first needed; the process's own for good. */
let waiting: Waiting | undefined;
let lastNumber = 0;
/** A thread waits. It does so while there are waiters, so that it does not keep a process alive. */
let isWatched = false;

function opened(): Waiting {
  const epoll = Number(epoll_create1(EPOLL_CLOEXEC));
  if (epoll < 0) throw failed("epoll_create1");
  return { epoll, events: Buffer.alloc(MOST_EVENTS * EVENT_BYTES), waiters: new Map() };
}

/**
 * Resolves when there is something to read, or the other side is gone. One waiter a descriptor. To close it does not wake:
 * `wake` is to be called before. Rejects when it was closed all the same and its number is waited for anew.
 */
export function readable(descriptor: number): Promise<void> {
  waiting ??= opened();
  const { epoll, waiters } = waiting;
  const event = Buffer.alloc(EVENT_BYTES);
  event.writeUInt32LE(EPOLLIN, 0);
  event.writeInt32LE(descriptor, DESCRIPTOR_AT);
  lastNumber = (lastNumber + 1) >>> 0;
  event.writeUInt32LE(lastNumber, NUMBER_AT);
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, event) !== 0) throw failed("epoll_ctl");
  const closed = waiters.get(descriptor);
  closed?.reject(new GodwitError("internal", `descriptor ${descriptor} was closed while it was waited for`));
  const waiter: Waiter = { ...Promise.withResolvers<void>(), number: lastNumber };
  waiters.set(descriptor, waiter);
  if (!isWatched) watch(waiting);
  return waiter.promise;
}

/**
 * Who waits for this descriptor goes on: it is shut down, and may be closed before the kernel's own word of that is heard,
 * which is then never heard.
 */
export function wake(descriptor: number): void {
  const waiter = waiting?.waiters.get(descriptor);
  if (waiting === undefined || waiter === undefined) return;
  release(waiting, descriptor);
  waiter.resolve();
}

function watch(now: Waiting): void {
  isWatched = true;
  const { epoll, events, waiters } = now;
  epoll_wait.async(epoll, events, MOST_EVENTS, WITHOUT_END, (error: Error | null, count: number) => {
    isWatched = false;
    // A process that is stopped and goes on finds its call interrupted (signal(7)).
    const heard = error === null && count < 0 ? Number(epoll_wait(epoll, events, MOST_EVENTS, 0)) : count;
    if (error !== null || heard < 0) {
      const failure = error ?? failed("epoll_wait");
      for (const [descriptor, waiter] of waiters) {
        release(now, descriptor);
        waiter.reject(failure);
      }
      return;
    }
    for (let at = 0; at < heard * EVENT_BYTES; at += EVENT_BYTES) {
      const descriptor = events.readInt32LE(at + DESCRIPTOR_AT);
      const waiter = waiters.get(descriptor);
      if (waiter !== undefined && waiter.number !== events.readUInt32LE(at + NUMBER_AT)) continue;
      release(now, descriptor);
      waiter?.resolve();
    }
    if (waiters.size > 0) watch(now);
  });
}

function release({ epoll, waiters }: Waiting, descriptor: number): void {
  waiters.delete(descriptor);
  epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, null);
}
