import { formatTime, encodePax, type PaxRecords } from "./pax.ts";

/** One member of a tar stream, as Godwit writes it. Strings are byte strings. */
export interface TarMember {
  readonly name: string;
  readonly type: keyof typeof TYPE_FLAGS;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
  /** Bytes of body that follow. */
  readonly bodyBytes: number;
  readonly linkName?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly pax: PaxRecords;
}

const TYPE_FLAGS = {
  file: "0",
  link: "1",
  symlink: "2",
  character: "3",
  block: "4",
  directory: "5",
  fifo: "6",
};

const TAR_BLOCK_BYTES = 512;
export const TAR_END = Buffer.alloc(2 * TAR_BLOCK_BYTES);
export const paddingOf = (bytes: number): number =>
  (TAR_BLOCK_BYTES - (bytes % TAR_BLOCK_BYTES)) % TAR_BLOCK_BYTES;

const FIELD_MAX = { id: 0o7777777, size: 0o77777777777, time: 0o77777777777n };
const isPlain = (text: string, maximum: number): boolean =>
  text.length <= maximum && /^[\x20-\x7e]*$/.test(text);

/**
 * The header blocks of a member, its PAX header included. Written here and not with tar-stream's `pack`,
 * which encodes all strings as UTF-8 (so neither file names nor attributes that are plain bytes survive),
 * replaces mode 0 by 0644, cuts large owners to 7777777, and holds headers in memory without bound while
 * the reader is slow. What comes out is plain POSIX.1-2001 for GNU tar, bsdtar and tar-stream alike.
 */
export function encodeTarHeader(member: TarMember): Buffer {
  const pax: PaxRecords = { ...member.pax };
  const name = member.type === "directory" ? `${member.name}/` : member.name;
  const linkName = member.linkName ?? "";
  const seconds = member.mtimeNs / 1_000_000_000n;
  if (!isPlain(name, 100)) pax["path"] = name;
  if (!isPlain(linkName, 100)) pax["linkpath"] = linkName;
  if (member.uid > FIELD_MAX.id) pax["uid"] = String(member.uid);
  if (member.gid > FIELD_MAX.id) pax["gid"] = String(member.gid);
  if (member.bodyBytes > FIELD_MAX.size) pax["size"] = String(member.bodyBytes);
  pax["mtime"] = formatTime(member.mtimeNs);
  const records = encodePax(pax);
  const clampedSeconds = seconds < 0n ? 0n : seconds > FIELD_MAX.time ? FIELD_MAX.time : seconds;
  const ustar = {
    mode: member.mode,
    uid: Math.min(member.uid, FIELD_MAX.id),
    gid: Math.min(member.gid, FIELD_MAX.id),
    seconds: Number(clampedSeconds),
  };
  return Buffer.concat([
    block({
      ...ustar,
      name: "PaxHeader",
      size: records.byteLength,
      flag: "x",
      linkName: "",
      major: 0,
      minor: 0,
    }),
    records,
    Buffer.alloc(paddingOf(records.byteLength)),
    block({
      ...ustar,
      name: isPlain(name, 100) ? name : "PaxName",
      linkName: isPlain(linkName, 100) ? linkName : "PaxName",
      size: member.bodyBytes > FIELD_MAX.size ? 0 : member.bodyBytes,
      flag: TYPE_FLAGS[member.type],
      major: member.major ?? 0,
      minor: member.minor ?? 0,
    }),
  ]);
}

function block(fields: {
  name: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  seconds: number;
  flag: string;
  linkName: string;
  major: number;
  minor: number;
}): Buffer {
  const bytes = Buffer.alloc(TAR_BLOCK_BYTES);
  const octal = (value: number, offset: number, digits: number): void => {
    bytes.write(value.toString(8).padStart(digits, "0"), offset, "latin1");
  };
  bytes.write(fields.name, 0, "latin1");
  octal(fields.mode & 0o7777, 100, 7);
  octal(fields.uid, 108, 7);
  octal(fields.gid, 116, 7);
  octal(fields.size, 124, 11);
  octal(fields.seconds, 136, 11);
  bytes.fill(0x20, 148, 156);
  bytes.write(fields.flag, 156, "latin1");
  bytes.write(fields.linkName, 157, "latin1");
  bytes.write("ustar\x0000", 257, "latin1");
  octal(fields.major, 329, 7);
  octal(fields.minor, 337, 7);
  let sum = 0;
  for (const byte of bytes) sum += byte;
  octal(sum, 148, 6);
  bytes[154] = 0;
  return bytes;
}
