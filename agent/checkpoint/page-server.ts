import { GodwitError } from "../../proto/contract/error.ts";

/**
 * The dump side of CRIU's page-server protocol over a stream socket, as a parser that is fed whatever pieces come.
 * Native endian, no handshake: the header's layout is known from CRIU's version alone. Pure.
 */
const PAGE_SERVER_OPEN2 = 4;
export const PAGE_SERVER_ADD_F = 6;
const PAGE_SERVER_CLOSE = 0x1023;
const PAGE_SERVER_FORCE_CLOSE = 0x1024;
const COMMAND_MASK = 0xffff;
/** Flags of ADD_F: the parent image has the pages; their content follows. */
const PARENT = 1;
const PRESENT = 4;

export interface PageServerCommand {
  readonly operation: number;
  readonly pages: number;
  readonly address: number;
  /** "<type>-<id>", see page-run.ts. */
  readonly space: string;
  readonly hasContent: boolean;
  /** CRIU leaves the pages out: they were not written since the image that it builds upon. */
  readonly inParent: boolean;
}

export interface PageServerHeader {
  readonly bytes: number;
  decode(view: DataView): PageServerCommand;
}

/** The header as this version of CRIU lays it out: the count of pages grew to 64 bits in 4.2. */
export function pageServerHeader(criuVersion: string): PageServerHeader {
  const [major = 0, minor = 0] = criuVersion.split(".").map(Number);
  const wide = major > 4 || (major === 4 && minor >= 2);
  return {
    bytes: wide ? 32 : 24,
    decode: (view) => {
      const command = view.getUint32(0, true);
      const destination = view.getBigUint64(wide ? 24 : 16, true);
      return {
        operation: command & COMMAND_MASK,
        hasContent: ((command >>> 16) & PRESENT) !== 0,
        inParent: ((command >>> 16) & PARENT) !== 0,
        pages: wide ? Number(view.getBigUint64(8, true)) : view.getUint32(4, true),
        address: Number(view.getBigUint64(wide ? 16 : 8, true)),
        space: `${destination & 0xffn}-${destination >> 8n}`,
      };
    },
  };
}

/** Consecutive pages, in the order in which CRIU names them. */
export interface PageSegment {
  readonly space: string;
  readonly address: number;
  readonly pages: number;
  /** In the buffer that was parsed; undefined: CRIU says that the parent has them. */
  readonly offset: number | undefined;
}

export interface ParsedPages {
  /** Address spaces that CRIU has begun; each wants an answer of one byte. */
  readonly opened: readonly string[];
  readonly segments: readonly PageSegment[];
  /** Bytes of the buffer that are done with; the rest is the beginning of what comes next. */
  readonly consumed: number;
  /** CRIU has sent everything and wants an answer of four bytes. */
  readonly finished: boolean;
}

/** Takes the dump's stream apart, piece by piece, without copying or looking at the pages. */
export class PageStreamParser {
  readonly #header: PageServerHeader;
  readonly #pageBytes: number;
  #run: { space: string; address: number; left: number } | undefined;

  constructor(header: PageServerHeader, pageBytes: number) {
    this.#header = header;
    this.#pageBytes = pageBytes;
  }

  /** @param filled bytes at the beginning of `buffer`; @throws GodwitError for what CRIU never sends */
  parse(buffer: Uint8Array, filled: number): ParsedPages {
    const opened: string[] = [];
    const segments: PageSegment[] = [];
    let at = 0;
    for (;;) {
      const run = this.#run;
      if (run !== undefined) {
        const pages = Math.min(run.left, Math.floor((filled - at) / this.#pageBytes));
        if (pages === 0) break;
        segments.push({ space: run.space, address: run.address, pages, offset: at });
        at += pages * this.#pageBytes;
        run.address += pages * this.#pageBytes;
        run.left -= pages;
        if (run.left === 0) this.#run = undefined;
        continue;
      }
      if (filled - at < this.#header.bytes) break;
      const command = this.#header.decode(
        new DataView(buffer.buffer, buffer.byteOffset + at, this.#header.bytes),
      );
      at += this.#header.bytes;
      switch (command.operation) {
        case PAGE_SERVER_OPEN2:
          opened.push(command.space);
          break;
        case PAGE_SERVER_ADD_F:
          if (command.pages === 0) break;
          if (command.inParent) {
            const { space, address, pages } = command;
            segments.push({ space, address, pages, offset: undefined });
          } else if (!command.hasContent) {
            throw new GodwitError("internal", "CRIU sent pages without content");
          } else this.#run = { space: command.space, address: command.address, left: command.pages };
          break;
        case PAGE_SERVER_CLOSE:
        case PAGE_SERVER_FORCE_CLOSE:
          return { opened, segments, consumed: at, finished: true };
        default:
          throw new GodwitError("internal", `CRIU's page server command ${command.operation} is unknown`);
      }
    }
    return { opened, segments, consumed: at, finished: false };
  }
}
