/**
 * What the filler and the agent say to each other of pages that follow (post-copy), at the socket PAGES_SOCKET beside the
 * image: words of 16 bytes, each a run of pages of one process by their addresses in the image. The filler says first
 * which pages it lacks, then a word without pages, then which ones somebody waits for; the agent says which have come.
 * Pure.
 */
export interface PageWord {
  /** As the image names the process. */
  readonly pid: number;
  readonly address: number;
  /** 0: that was all that is lacking. */
  readonly pages: number;
}

export const PAGES_SOCKET = "pages.socket";
const WORD_BYTES = 16;

export function encodePageWords(words: readonly PageWord[]): Buffer {
  const bytes = Buffer.alloc(words.length * WORD_BYTES);
  words.forEach(({ pid, address, pages }, index) => {
    bytes.writeBigUInt64LE(BigInt(address), index * WORD_BYTES);
    bytes.writeUInt32LE(pages, index * WORD_BYTES + 8);
    bytes.writeUInt32LE(pid, index * WORD_BYTES + 12);
  });
  return bytes;
}

/** Takes words out of pieces as they come. */
export class PageWordReader {
  #rest: Buffer = Buffer.alloc(0);

  read(piece: Uint8Array): PageWord[] {
    const bytes = Buffer.concat([this.#rest, piece]);
    const words: PageWord[] = [];
    let at = 0;
    for (; at + WORD_BYTES <= bytes.byteLength; at += WORD_BYTES)
      words.push({
        address: Number(bytes.readBigUInt64LE(at)),
        pages: bytes.readUInt32LE(at + 8),
        pid: bytes.readUInt32LE(at + 12),
      });
    this.#rest = bytes.subarray(at);
    return words;
  }
}
