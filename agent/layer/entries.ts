import { GodwitError } from "../../proto/contract/error.ts";
import { isPortable } from "./attributes.ts";
import {
  PATCH,
  SPARSE_MAP,
  SPARSE_SIZE,
  SPECIAL_TYPE,
  XATTR_PREFIX,
  parseTime,
  type PaxRecords,
} from "./pax.ts";
import { decodeRanges, decodeSegments } from "./sparse.ts";
import type { TarHeader } from "./tar-reader.ts";
import type { NewEntry, Owned } from "./tree-writer.ts";

const EMPTY: PaxRecords = {};
const MAX_ID = 0xffff_fffe;

const corrupt = (name: string, what: string): GodwitError =>
  new GodwitError("corrupt", `the tar entry '${Buffer.from(name, "latin1").toString("utf8")}' ${what}`);

/** What a tar header asks for. `keepsAttribute` says which extended attributes the tar may set. */
export function entryOf(header: TarHeader, keepsAttribute: (name: string) => boolean = isPortable): NewEntry {
  const pax = header.pax ?? EMPTY;
  const { name } = header;
  const attributes = new Map<string, Buffer>();
  for (const [key, value] of Object.entries(pax)) {
    if (!key.startsWith(XATTR_PREFIX)) continue;
    const attribute = key.slice(XATTR_PREFIX.length);
    if (keepsAttribute(attribute)) attributes.set(attribute, Buffer.from(value, "latin1"));
  }
  const owned: Owned = {
    mode: header.mode & 0o7777,
    uid: idOf(name, pax["uid"], header.uid),
    gid: idOf(name, pax["gid"], header.gid),
    mtimeNs:
      pax["mtime"] === undefined
        ? BigInt(Math.trunc(header.mtime.getTime())) * 1_000_000n
        : parseTime(pax["mtime"]),
    attributes,
  };
  switch (header.type) {
    case "file":
    case "contiguous-file":
      return fileOf(name, header.size, pax, owned);
    case "directory":
    case "fifo":
      return { kind: header.type, ...owned };
    case "symlink":
      if (!header.linkname) throw corrupt(name, "is a symbolic link to nowhere");
      return { kind: "symlink", target: header.linkname, ...owned };
    case "link":
      if (!header.linkname) throw corrupt(name, "is a hard link to nothing");
      return { kind: "link", target: header.linkname };
    case "character-device":
    case "block-device": {
      const kind = header.type === "character-device" ? "character" : "block";
      return { kind, major: header.devmajor, minor: header.devminor, ...owned };
    }
    default:
      throw corrupt(name, "is of a type that is not supported (a GNU sparse file or an extension)");
  }
}

function fileOf(name: string, bodyBytes: number, pax: PaxRecords, owned: Owned): NewEntry {
  if (Object.keys(pax).some((key) => key.startsWith("GNU.sparse."))) {
    throw corrupt(name, "is a GNU sparse file; write the archive without --sparse");
  }
  if (pax[SPECIAL_TYPE] === "socket") return { kind: "socket", ...owned };
  const map = pax[SPARSE_MAP];
  const cleared = pax[PATCH];
  if (cleared !== undefined) {
    const sizeBytes = Number(pax[SPARSE_SIZE]);
    const segments = decodeSegments(map ?? "", sizeBytes, bodyBytes);
    return { kind: "patch", sizeBytes, segments, cleared: decodeRanges(cleared, sizeBytes), ...owned };
  }
  if (map === undefined) {
    const segments = bodyBytes === 0 ? [] : [{ offset: 0, length: bodyBytes }];
    return { kind: "file", sizeBytes: bodyBytes, segments, ...owned };
  }
  const sizeBytes = Number(pax[SPARSE_SIZE]);
  return { kind: "file", sizeBytes, segments: decodeSegments(map, sizeBytes, bodyBytes), ...owned };
}

function idOf(name: string, pax: string | undefined, plain: number | null): number {
  const id = pax === undefined ? (plain ?? 0) : Number(pax);
  if (!Number.isInteger(id) || id < 0 || id > MAX_ID) throw corrupt(name, "has an owner out of range");
  return id;
}
