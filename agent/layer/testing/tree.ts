import { lstatSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { getAttribute, listAttributes } from "../../native/files.ts";
import { removeTree } from "../remove.ts";

/** A folder for one test, removed with all that is below it (and never through a mount). */
export async function temporaryFolder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), "godwit-layer-"));
  return { path, [Symbol.asyncDispose]: () => removeTree(Buffer.from(path)) };
}

export async function gather(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

export async function* once(bytes: Uint8Array, pieceBytes = 100_000): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < bytes.byteLength; offset += pieceBytes) {
    yield bytes.subarray(offset, offset + pieceBytes);
  }
}

/** Everything about a tree that a move has to keep, one line a path, for comparing two of them. */
export function portrait(root: string, ignore: (attribute: string) => boolean = () => false): string[] {
  const lines: string[] = [];
  const groups = new Map<bigint, string>();
  const visit = (path: Buffer, name: string): void => {
    const stats = lstatSync(path, { bigint: true });
    const attributes = listAttributes(path)
      .filter((attribute) => !ignore(attribute))
      .sort()
      .map((attribute) => `${attribute}=${getAttribute(path, attribute)?.toString("hex")}`);
    if (stats.isCharacterDevice() && stats.rdev === 0n) {
      lines.push(`${name}: whiteout`);
      return;
    }
    const first = groups.get(stats.ino) ?? name;
    groups.set(stats.ino, first);
    const content = stats.isFile()
      ? `${stats.size} ${stats.size > 50_000_000n ? "large" : readFileSync(path).toString("base64")}`
      : stats.isSymbolicLink()
        ? readlinkSync(path, "latin1")
        : "";
    const facts = [
      stats.mode.toString(8),
      stats.uid,
      stats.gid,
      stats.rdev,
      stats.mtimeNs,
      `links to ${first}`,
      content,
    ];
    lines.push(`${name}: ${facts.join(" ")} ${attributes.join(" ")}`);
    if (!stats.isDirectory()) return;
    for (const child of readdirSync(path, { encoding: "latin1" }).sort()) {
      visit(Buffer.concat([path, Buffer.from(`/${child}`, "latin1")]), `${name}/${child}`);
    }
  };
  visit(Buffer.from(root), ".");
  return lines;
}
