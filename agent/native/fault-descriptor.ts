import { constants } from "node:os";

import koffi from "koffi";

/** userfaultfd(2) as whoever fills a process's missing pages sees it (linux/userfaultfd.h). */
const libc = koffi.load(null);
const ioctl = libc.func("int ioctl(int fd, unsigned long request, void *argument)");
const readCall = libc.func("intptr_t read(int fd, void *buffer, size_t length)");

const UFFDIO_WAKE = 0x8010_aa02;
const UFFDIO_COPY = 0xc028_aa03;
const UFFDIO_ZEROPAGE = 0xc020_aa04;
const MESSAGE_BYTES = 32;
const MESSAGES = 64;
const PAGE_MASK = ~0xfffn;
const { EAGAIN, EEXIST, EINTR, ENOENT, ENOMEM, ENOSPC, ESRCH } = constants.errno;

/** What the kernel tells of a process; addresses in bytes. */
export type FaultEvent =
  | { readonly kind: "fault"; readonly address: number }
  /** A child with memory of its own: whoever reads this owns its descriptor. */
  | { readonly kind: "fork"; readonly descriptor: number }
  | { readonly kind: "moved"; readonly from: number; readonly to: number; readonly bytes: number }
  /** Given up, or unmapped. */
  | { readonly kind: "removed"; readonly start: number; readonly end: number };

const Event = { fault: 0x12, fork: 0x13, remap: 0x14, remove: 0x15, unmap: 0x16 } as const;

/**
 * "done": all of it. "exists": the first page that is not placed is there already. "changing": the mappings change at
 * this moment; read the events and try again. "nowhere": not within one mapping that is filled this way. "full": the
 * host or the container has no memory left. "ended": the process is gone.
 */
export type Placing = "done" | "exists" | "changing" | "nowhere" | "full" | "ended";

export interface Placed {
  readonly outcome: Placing;
  readonly bytes: number;
}

export class FaultDescriptor {
  readonly number: number;
  readonly #messages = Buffer.alloc(MESSAGES * MESSAGE_BYTES);
  readonly #argument = Buffer.alloc(40);

  constructor(number: number) {
    this.number = number;
  }

  /** What has happened by now, events in the order in which they happened; faults may be told earlier. */
  read(): FaultEvent[] {
    const events: FaultEvent[] = [];
    for (;;) {
      const bytes = Number(readCall(this.number, this.#messages, this.#messages.byteLength));
      if (bytes < 0) {
        const errno = koffi.errno();
        if (errno === EAGAIN) return events;
        if (errno === EINTR) continue;
        throw new Error(`read(userfaultfd): errno ${errno}`);
      }
      for (let at = 0; at + MESSAGE_BYTES <= bytes; at += MESSAGE_BYTES)
        events.push(decode(this.#messages.subarray(at, at + MESSAGE_BYTES)));
      if (bytes < this.#messages.byteLength) return events;
    }
  }

  /** Puts content in place and wakes whoever waits for it. @param content where it lies in this process's memory */
  copy(address: number, content: number, bytes: number): Placed {
    const argument = this.#argument;
    argument.writeBigUInt64LE(BigInt(address), 0);
    argument.writeBigUInt64LE(BigInt(content), 8);
    argument.writeBigUInt64LE(BigInt(bytes), 16);
    argument.writeBigUInt64LE(0n, 24);
    argument.writeBigInt64LE(0n, 32);
    if (ioctl(this.number, UFFDIO_COPY, argument) === 0) return { outcome: "done", bytes };
    return { outcome: placingOf(koffi.errno()), bytes: Math.max(0, Number(argument.readBigInt64LE(32))) };
  }

  /** One page of zeros. */
  zero(address: number, bytes: number): Placed {
    const argument = this.#argument;
    argument.writeBigUInt64LE(BigInt(address), 0);
    argument.writeBigUInt64LE(BigInt(bytes), 8);
    argument.writeBigUInt64LE(0n, 16);
    argument.writeBigInt64LE(0n, 24);
    if (ioctl(this.number, UFFDIO_ZEROPAGE, argument) === 0) return { outcome: "done", bytes };
    return { outcome: placingOf(koffi.errno()), bytes: Math.max(0, Number(argument.readBigInt64LE(24))) };
  }

  /** Whoever waits for these pages looks again. */
  wake(address: number, bytes: number): void {
    this.#argument.writeBigUInt64LE(BigInt(address), 0);
    this.#argument.writeBigUInt64LE(BigInt(bytes), 8);
    ioctl(this.number, UFFDIO_WAKE, this.#argument);
  }
}

function placingOf(errno: number): Placing {
  switch (errno) {
    case EAGAIN:
    case EINTR:
      return "changing";
    case EEXIST:
      return "exists";
    case ENOENT:
      return "nowhere";
    case ENOMEM:
      return "full";
    case ESRCH:
    case ENOSPC: // what ESRCH was before Linux 4.13
      return "ended";
    default:
      throw new Error(`ioctl(userfaultfd): errno ${errno}`);
  }
}

function decode(message: Buffer): FaultEvent {
  const word = (at: number): number => Number(message.readBigUInt64LE(at));
  switch (message[0]) {
    case Event.fault:
      return { kind: "fault", address: Number(message.readBigUInt64LE(16) & PAGE_MASK) };
    case Event.fork:
      return { kind: "fork", descriptor: message.readUInt32LE(8) };
    case Event.remap:
      return { kind: "moved", from: word(8), to: word(16), bytes: word(24) };
    case Event.remove:
    case Event.unmap:
      return { kind: "removed", start: word(8), end: word(16) };
    default:
      throw new Error(`userfaultfd event ${message[0]} is unknown`);
  }
}
