import { randomBytes } from "node:crypto";
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { extract } from "tar-stream";
import { expect, test } from "vitest";

import { tarOfFolder } from "./folder-tar.ts";

test("a folder as a tar: every byte, the size foretold, and no warning about listeners", async () => {
  const root = mkdtempSync(join(tmpdir(), "godwit-folder-"));
  const warnings: string[] = [];
  const onWarning = (warning: Error): void => void warnings.push(warning.name);
  process.on("warning", onWarning);
  try {
    const large = randomBytes(4 * 1024 * 1024 + 7); // many times what a stream takes at once
    mkdirSync(join(root, "blobs"));
    writeFileSync(join(root, "blobs", "large"), large);
    writeFileSync(join(root, "empty"), "");
    const { chunks, totalBytes } = await tarOfFolder(root);
    const sent: Buffer[] = [];
    for await (const chunk of chunks) {
      sent.push(chunk);
      await new Promise(setImmediate); // slower than the disk
    }
    expect(Buffer.concat(sent)).toHaveLength(totalBytes);
    const found = new Map<string, Buffer>();
    const tar = extract();
    tar.end(Buffer.concat(sent));
    for await (const entry of tar) {
      const pieces: Buffer[] = [];
      for await (const piece of entry as AsyncIterable<Buffer>) pieces.push(piece);
      found.set(entry.header.name, Buffer.concat(pieces));
    }
    expect([...found.keys()].toSorted()).toEqual(["blobs/large", "empty"]);
    expect(found.get("blobs/large")?.equals(large)).toBe(true);
    expect(warnings).toEqual([]);
  } finally {
    process.off("warning", onWarning);
    rmSync(root, { recursive: true });
  }
});
