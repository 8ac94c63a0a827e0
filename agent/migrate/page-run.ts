import { PAGE_BYTES } from "../native/page-hash.ts";

/**
 * Consecutive pages as they travel in a PAGES record: a head of 16 bytes, then their content unless the target holds
 * it since the container's last stay there. Pure.
 */
export interface PageRun {
  /** Of the first page. */
  readonly address: number;
  readonly pages: number;
  readonly kind: PageKind;
}

/**
 * "held": the target holds the content (agent/keep). "gone": the container has given back what an earlier round brought;
 * every other page that was brought stays. "following": there is such a page, whose content comes later (post-copy).
 */
export type PageKind = "content" | "held" | "gone" | "following";
const KINDS: readonly PageKind[] = ["gone", "content", "held", "following"];

/** Name of the ROUND_END record behind the last round. */
export const LAST_ROUND = "last";

export const PAGE_RUN_HEAD_BYTES = 16;
/** One record carries at most this much content. */
export const MAX_RUN_PAGES = 256;

export function encodePageRun(run: PageRun): Buffer {
  const head = Buffer.alloc(PAGE_RUN_HEAD_BYTES);
  head.writeBigUInt64LE(BigInt(run.address), 0);
  head.writeUInt32LE(run.pages, 8);
  head.writeUInt32LE(KINDS.indexOf(run.kind), 12);
  return head;
}

/** Undefined when it makes no sense. */
export function decodePageRun(head: Uint8Array, bodyBytes: number): PageRun | undefined {
  if (head.byteLength !== PAGE_RUN_HEAD_BYTES) return undefined;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const address = Number(view.getBigUint64(0, true));
  const pages = view.getUint32(8, true);
  const kind = KINDS[view.getUint32(12, true)];
  if (kind === undefined) return undefined;
  if (!Number.isSafeInteger(address) || address % PAGE_BYTES !== 0) return undefined;
  // A run without pages says that the address space exists.
  if (pages === 0 && kind !== "gone") return undefined;
  const isListed = kind === "gone" || kind === "following";
  if (!isListed && pages > MAX_RUN_PAGES) return undefined;
  if (bodyBytes !== (kind === "content" ? pages * PAGE_BYTES : 0)) return undefined;
  return { address, pages, kind };
}

/** "<type>-<id>" as CRIU's page server names an address space: type 1 is a task by its pid, 2 a shared memory. */
export const SPACE_NAME = /^([12])-(\d{1,19})$/;

export function pagemapFileOf(space: string): string | undefined {
  const match = SPACE_NAME.exec(space);
  if (match === null) return undefined;
  return match[1] === "1" ? `pagemap-${match[2]}.img` : `pagemap-shmem-${match[2]}.img`;
}
