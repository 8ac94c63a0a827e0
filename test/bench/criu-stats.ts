/** What CRIU itself says of a dump and a restore: the floor under everything that is built around it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";

/** Field numbers of CRIU's images/stats.proto; times there are in microseconds. */
const DUMP = 1;
const DUMP_FROZEN_TIME = 2;
const RESTORE = 2;
const RESTORE_TIME = 4;
/** Two magic numbers, then the length of the only entry. */
const HEADER_BYTES = 12;

/** Scalars of one message within the entry. */
function fields(file: string, message: number): Map<number, number> {
  const bytes = readFileSync(file);
  const found = new Map<number, number>();
  const entry = new BinaryReader(bytes.subarray(HEADER_BYTES, HEADER_BYTES + bytes.readUInt32LE(8)));
  while (entry.pos < entry.len) {
    const [number, type] = entry.tag();
    if (number !== message || type !== WireType.LengthDelimited) {
      entry.skip(type);
      continue;
    }
    const inner = new BinaryReader(entry.bytes());
    while (inner.pos < inner.len) {
      const [innerNumber, innerType] = inner.tag();
      if (innerType === WireType.Varint) found.set(innerNumber, Number(inner.uint64()));
      else inner.skip(innerType);
    }
  }
  return found;
}

export interface CriuTimes {
  readonly criuFrozenMs: number;
  readonly criuRestoreMs: number;
}

/** undefined where this CRIU wrote no statistics. */
export function readCriuTimes(dumpDir: string, restoreDir: string): CriuTimes | undefined {
  try {
    const frozenMicroseconds = fields(join(dumpDir, "stats-dump"), DUMP).get(DUMP_FROZEN_TIME);
    const restoreMicroseconds = fields(join(restoreDir, "stats-restore"), RESTORE).get(RESTORE_TIME);
    if (frozenMicroseconds === undefined || restoreMicroseconds === undefined) return undefined;
    return { criuFrozenMs: frozenMicroseconds / 1000, criuRestoreMs: restoreMicroseconds / 1000 };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
