import { GodwitError } from "../../proto/contract/error.ts";
import { type PageSegment, type PageServerHeader, PageStreamParser } from "../checkpoint/page-server.ts";
import { PAGE_BYTES } from "../native/page-hash.ts";
import { receiveInto, sendPacket } from "../native/sockets.ts";
import { BUFFER_BYTES, PageBuffer } from "./page-copier.ts";

export interface DumpListener {
  /** CRIU begins with an address space. Answers whether it may leave out what was not written. */
  opened(space: string): boolean;
  take(segment: PageSegment, buffer: PageBuffer): void;
  /** The buffer is about to be used again. */
  flush(buffer: PageBuffer): Promise<void>;
}

/** Two of them: one is filled while the pages of the other are looked at. Made before the container stands still. */
export type DumpBuffers = readonly [PageBuffer, PageBuffer];

/** Takes in what CRIU says on its page socket, until it has said all. */
export async function hearDump(
  { descriptor, header }: { readonly descriptor: number; readonly header: PageServerHeader },
  buffers: DumpBuffers,
  listener: DumpListener,
): Promise<void> {
  const parser = new PageStreamParser(header, PAGE_BYTES);
  let [filling, hashing] = buffers;
  let filled = await receive(descriptor, filling, 0);
  for (;;) {
    [filling, hashing] = [hashing, filling];
    const { opened, segments, consumed, finished } = parser.parse(hashing.bytes, filled);
    for (const space of opened) {
      // CRIU waits for this byte.
      sendPacket(descriptor, Uint8Array.of(listener.opened(space) ? 1 : 0));
    }
    const rest = filled - consumed;
    hashing.bytes.copy(filling.bytes, 0, consumed, filled);
    const more = finished ? undefined : receive(descriptor, filling, rest);
    more?.catch(() => undefined); // awaited below, unless something else fails first
    for (const segment of segments) listener.take(segment, hashing);
    await listener.flush(hashing);
    if (more === undefined) break;
    filled = await more;
  }
  sendPacket(descriptor, new Uint8Array(4));
}

/** Answers how many bytes the buffer then holds. */
async function receive(descriptor: number, buffer: PageBuffer, filled: number): Promise<number> {
  const received = await receiveInto(descriptor, buffer.address + filled, BUFFER_BYTES - filled);
  if (received === 0) throw new GodwitError("internal", "CRIU closed its page socket in the middle");
  return filled + received;
}
