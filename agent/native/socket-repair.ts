import { closeSync } from "node:fs";

import koffi from "koffi";

import { copyDescriptors } from "./descriptors.ts";

/** See tcp(7) for TCP_REPAIR. */
const libc = koffi.load("libc.so.6");
const getsockopt = libc.func(
  "int getsockopt(int fd, int level, int name, _Out_ uint8_t *value, _Inout_ uint32_t *length)",
);
const setsockopt = libc.func(
  "int setsockopt(int fd, int level, int name, const void *value, uint32_t length)",
);

const SOL_TCP = 6;
const TCP_REPAIR = 19;

/**
 * Ends the repair mode that CRIU puts TCP sockets into while it reads them. A CRIU that is killed leaves them in it:
 * the process would then get an error for whatever it reads or writes. Answers how many sockets there were.
 */
export function endSocketRepair(pids: Iterable<number>): number {
  let ended = 0;
  for (const pid of pids) {
    for (const socket of copyDescriptors(pid, "socket:")) {
      if (endRepair(socket)) ended += 1;
      closeSync(socket);
    }
  }
  return ended;
}

function endRepair(socket: number): boolean {
  const value = Buffer.alloc(4);
  const inRepair = getsockopt(socket, SOL_TCP, TCP_REPAIR, value, [4]) === 0 && value.readInt32LE(0) === 1;
  return inRepair && setsockopt(socket, SOL_TCP, TCP_REPAIR, Buffer.alloc(4), 4) === 0;
}
