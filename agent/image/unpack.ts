import { createHash } from "node:crypto";

import { GodwitError } from "../../proto/contract/error.ts";
import { MAX_ENTRIES, diskError } from "../layer/apply.ts";
import { OPAQUE_ATTRIBUTE, isPortable } from "../layer/attributes.ts";
import { entryOf } from "../layer/entries.ts";
import { joinPath, splitPath } from "../layer/paths.ts";
import { readTar, type TarEntry } from "../layer/tar-reader.ts";
import { TreeWriter, type NewEntry } from "../layer/tree-writer.ts";
import { setAttribute } from "../native/files.ts";

/** OCI image layers mark what they delete by files with these names. */
const WHITEOUT_PREFIX = ".wh.";
const OPAQUE_WHITEOUT = ".wh..wh..opq";
const RESERVED_PREFIX = ".wh..wh.";

const WHITEOUT: NewEntry = {
  kind: "character",
  major: 0,
  minor: 0,
  mode: 0,
  uid: 0,
  gid: 0,
  mtimeNs: 0n,
  attributes: new Map(),
};

/** What overlayfs keeps in its attributes would let an image reach into other layers. */
const keepsAttribute = (name: string): boolean => isPortable(name) && !name.startsWith("trusted.overlay.");

async function* hashed(
  bytes: AsyncIterable<Uint8Array>,
  hash: { update(bytes: Uint8Array): unknown },
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const piece of bytes) {
    hash.update(piece);
    yield piece;
  }
}

/**
 * Unpacks an OCI layer's tar into an empty folder, as a lower layer for overlayfs, and checks that its
 * SHA-256 is `diffId`. Throws GodwitError `invalid` for hostile entries and `corrupt` for a wrong digest.
 */
export async function unpackLayer(
  folder: string,
  tar: AsyncIterable<Uint8Array>,
  diffId: string,
  signal: AbortSignal,
): Promise<{ entries: number; bytes: number }> {
  const hash = createHash("sha256");
  const writer = new TreeWriter(Buffer.from(folder));
  try {
    for await (const entry of readTar(hashed(tar, hash), signal)) {
      signal.throwIfAborted();
      if (writer.entries >= MAX_ENTRIES)
        throw new GodwitError("invalid", "the image layer has too many entries");
      await unpackEntry(writer, entry);
    }
    writer.finish();
  } catch (error) {
    throw diskError(error);
  }
  const found = `sha256:${hash.digest("hex")}`;
  if (found !== diffId) {
    throw new GodwitError(
      "corrupt",
      `the image layer ${diffId} has the content of ${found}; import the image again`,
    );
  }
  return { entries: writer.entries, bytes: writer.bytes };
}

async function unpackEntry(writer: TreeWriter, { header, body }: TarEntry): Promise<void> {
  const components = splitPath(header.name);
  const name = components.at(-1) ?? "";
  const parents = components.slice(0, -1);
  if (name === OPAQUE_WHITEOUT) {
    setAttribute(writer.folder(joinPath(parents)), OPAQUE_ATTRIBUTE, Buffer.from("y"));
    return;
  }
  // Bookkeeping of aufs, which means nothing here.
  if (name.startsWith(RESERVED_PREFIX)) return;
  if (name.startsWith(WHITEOUT_PREFIX)) {
    const hidden = name.slice(WHITEOUT_PREFIX.length);
    if (splitPath(hidden).length !== 1) {
      throw new GodwitError(
        "invalid",
        `the image layer has the whiteout '${header.name}', which names nothing`,
      );
    }
    // It hides what lower layers have, never what this layer itself brings.
    const path = joinPath([...parents, hidden]);
    if (!writer.has(path)) await writer.place(path, WHITEOUT, body);
    return;
  }
  const entry = entryOf(header, keepsAttribute);
  if (entry.kind === "patch") throw new GodwitError("invalid", `'${header.name}' is a change of a file`);
  if (entry.kind === "character" || entry.kind === "block") {
    throw new GodwitError(
      "invalid",
      `the image layer has the device '${header.name}'; the runtime makes /dev itself`,
    );
  }
  await writer.place(header.name, entry, body);
}
