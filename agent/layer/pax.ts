import { GodwitError } from "../../proto/contract/error.ts";

/** Records of a PAX header. Keys and values are byte strings (latin1), so binary values pass unharmed. */
export type PaxRecords = Record<string, string>;

/** PAX keys of Godwit's own. */
export const SPARSE_MAP = "GODWIT.sparse.map";
export const SPARSE_SIZE = "GODWIT.sparse.size";
/**
 * The member is a difference: its body changes the file that is there, which then has the size SPARSE_SIZE, and
 * nothing but zeros in the ranges that the value names (before the body is written).
 */
export const PATCH = "GODWIT.patch";
/** For what tar has no type of its own: "socket". */
export const SPECIAL_TYPE = "GODWIT.type";
/** As written by GNU tar, bsdtar, Go's archive/tar and so by every OCI builder. */
export const XATTR_PREFIX = "SCHILY.xattr.";

export function encodePax(records: PaxRecords): Buffer {
  const parts: string[] = [];
  for (const [key, value] of Object.entries(records)) {
    const rest = ` ${key}=${value}\n`;
    // The length counts its own digits.
    let length = rest.length + 1;
    while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
    parts.push(`${length}${rest}`);
  }
  return Buffer.from(parts.join(""), "latin1");
}

export function decodePax(bytes: Uint8Array): PaxRecords {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  const records: PaxRecords = Object.create(null) as PaxRecords;
  for (let offset = 0; offset < text.length;) {
    const space = text.indexOf(" ", offset);
    const digits = text.slice(offset, space);
    const length = Number(digits);
    const end = offset + length;
    if (space < 0 || !/^[1-9][0-9]{0,8}$/.test(digits) || end > text.length || text[end - 1] !== "\n") {
      throw new GodwitError("corrupt", "a tar entry has a malformed PAX header");
    }
    const equals = text.indexOf("=", space);
    if (equals < 0 || equals >= end)
      throw new GodwitError("corrupt", "a tar entry has a malformed PAX record");
    records[text.slice(space + 1, equals)] = text.slice(equals + 1, end - 1);
    offset = end;
  }
  return records;
}

/** Seconds with nine decimals, also before 1970. */
export function formatTime(timeNs: bigint): string {
  const absolute = timeNs < 0n ? -timeNs : timeNs;
  const fraction = String(absolute % 1_000_000_000n).padStart(9, "0");
  return `${timeNs < 0n ? "-" : ""}${absolute / 1_000_000_000n}.${fraction}`;
}

export function parseTime(text: string): bigint {
  const match = /^(-?)([0-9]{1,12})(?:\.([0-9]*))?$/.exec(text);
  if (match === null)
    throw new GodwitError("corrupt", `a tar entry has the malformed time '${text.slice(0, 40)}'`);
  const [, sign, seconds = "0", fraction = ""] = match;
  const timeNs = BigInt(seconds) * 1_000_000_000n + BigInt(fraction.slice(0, 9).padEnd(9, "0"));
  return sign === "-" ? -timeNs : timeNs;
}
