/**
 * The dump side of CRIU's page-server protocol over a stream socket, as a parser that is fed whatever pieces come.
 * Native endian, no handshake: the header's layout is known from CRIU's version alone. Pure.
 */
export const PAGE_SERVER_OPEN2 = 4;
export const PAGE_SERVER_ADD_F = 6;
export const PAGE_SERVER_CLOSE = 0x1023;
export const PAGE_SERVER_FORCE_CLOSE = 0x1024;
const COMMAND_MASK = 0xffff;
/** Flag of ADD_F: the pages' content follows. */
const PRESENT = 4;

export interface PageServerCommand {
  readonly operation: number;
  readonly pages: number;
  readonly address: number;
  /** "<type>-<id>", see page-run.ts. */
  readonly space: string;
  readonly hasContent: boolean;
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
        pages: wide ? Number(view.getBigUint64(8, true)) : view.getUint32(4, true),
        address: Number(view.getBigUint64(wide ? 16 : 8, true)),
        space: `${destination & 0xffn}-${destination >> 8n}`,
      };
    },
  };
}
