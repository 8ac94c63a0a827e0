import {
  closeSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { randomBytes } from "node:crypto";
import { join } from "node:path";

import fc from "fast-check";
import { expect, test } from "vitest";

import { punchHole } from "../native/files.ts";
import { applyDeletions, applyLayer } from "./apply.ts";
import { compareLayers } from "./compare.ts";
import { BlockBook, FileBlocks } from "./file-blocks.ts";
import { packLayer } from "./pack.ts";
import { patchOf } from "./patch.ts";
import { PATCH, SPARSE_SIZE } from "./pax.ts";
import { scanLayer } from "./scan.ts";
import type { EntryStamp } from "./stamp.ts";
import { encodeTarHeader, TAR_END } from "./tar-header.ts";
import { gather, once, portrait, temporaryFolder } from "./testing/tree.ts";

const signal = new AbortController().signal;
const MIB = 1024 * 1024;
const MAX_BYTES = 3 * MIB;

/** Copies a tree as a move does: everything, then what has changed. */
class Copy {
  readonly #sent = new Map<string, EntryStamp>();
  readonly #blocks = new BlockBook();
  readonly #source: string;
  readonly #target: string;

  constructor(source: string, target: string) {
    this.#source = source;
    this.#target = target;
  }

  async all(): Promise<void> {
    const options = { signal, tolerateVanished: true, sent: this.#sent, blocks: this.#blocks };
    await applyLayer(this.#target, packLayer(this.#source, "all", options), { signal });
  }

  /** Answers the bytes. @param paths beside those whose stamps say so */
  async change(paths: readonly string[] = []): Promise<number> {
    const change = compareLayers(this.#sent, await scanLayer(this.#source, signal));
    await applyDeletions(this.#target, change.deleted);
    const options = { signal, tolerateVanished: false, sent: this.#sent, blocks: this.#blocks };
    const tar = await gather(packLayer(this.#source, new Set([...change.changed, ...paths]), options));
    await applyLayer(this.#target, once(tar), { signal });
    return tar.byteLength;
  }
}

type Edit =
  | {
      readonly kind: "write" | "punch";
      readonly offset: number;
      readonly length: number;
      readonly fill: number;
    }
  | { readonly kind: "truncate"; readonly sizeBytes: number };

const edit: fc.Arbitrary<Edit> = fc.oneof(
  fc.record({
    kind: fc.constantFrom("write" as const, "punch" as const),
    offset: fc.nat(MAX_BYTES),
    length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: 400_000 })),
    fill: fc.nat(255),
  }),
  fc.record({ kind: fc.constant("truncate" as const), sizeBytes: fc.nat(MAX_BYTES) }),
);

function apply(path: string, edits: readonly Edit[]): void {
  const descriptor = openSync(path, "r+");
  try {
    for (const one of edits) {
      if (one.kind === "truncate") ftruncateSync(descriptor, one.sizeBytes);
      else if (one.kind === "write")
        writeSync(descriptor, Buffer.alloc(one.length, one.fill), 0, one.length, one.offset);
      else punchHole(descriptor, one.offset, one.length);
    }
  } finally {
    closeSync(descriptor);
  }
}

test(
  "whatever is done to a large file, its difference makes the copy equal",
  { timeout: 120_000 },
  async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(edit, { maxLength: 4 }),
        fc.array(edit, { maxLength: 6 }),
        fc.boolean(),
        async (before, after, linked) => {
          await using source = await temporaryFolder();
          await using target = await temporaryFolder();
          const file = join(source.path, "file");
          writeFileSync(file, randomBytes(2 * MIB + 12_345));
          if (linked) linkSync(file, join(source.path, "other"));
          apply(file, before);
          const copy = new Copy(source.path, target.path);
          await copy.all();
          apply(file, after);
          await copy.change(["file"]);
          expect(readFileSync(join(target.path, "file")).equals(readFileSync(file))).toBe(true);
          expect(portrait(target.path)).toEqual(portrait(source.path));
          // Not one block more than a file of its holes has, as far as they are the file system's blocks.
          expect(statSync(join(target.path, "file")).blocks).toBeLessThanOrEqual(statSync(file).blocks + 8);
        },
      ),
      { numRuns: 40 },
    );
  },
);

test("a large file that changed in a few places sends those", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  const file = join(source.path, "database");
  writeFileSync(file, randomBytes(32 * MIB));
  linkSync(file, join(source.path, "second name"));
  const copy = new Copy(source.path, target.path);
  await copy.all();
  // Touched only, and looked at for another reason: nothing but headers.
  utimesSync(file, 1, 1);
  expect(await copy.change(["database"])).toBeLessThan(8 * 1024);
  await copy.all();
  const inode = statSync(join(target.path, "database")).ino;
  for (const at of [1, 9 * MIB - 10, 32 * MIB - 1]) apply(file, [write(at, 20)]);
  const bytes = await copy.change();
  expect(bytes).toBeLessThan(5 * 64 * 1024 + 16 * 1024);
  expect(readFileSync(join(target.path, "second name")).equals(readFileSync(file))).toBe(true);
  expect(statSync(join(target.path, "database"))).toMatchObject({ ino: inode, nlink: 2 });
});

test("what took a large file's place is sent whole", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  const at = (name: string): string => join(source.path, name);
  for (const name of ["replaced", "renamed", "link", "small"]) writeFileSync(at(name), randomBytes(2 * MIB));
  const copy = new Copy(source.path, target.path);
  await copy.all();
  writeFileSync(at("new"), randomBytes(2 * MIB));
  renameSync(at("new"), at("replaced"));
  renameSync(at("renamed"), at("moved"));
  unlinkSync(at("link"));
  symlinkSync("/etc/passwd", at("link"));
  truncateSync(at("small"), 100);
  const bytes = await copy.change();
  expect(bytes).toBeGreaterThan(4 * MIB);
  expect(bytes).toBeLessThan(5 * MIB);
  expect(portrait(target.path)).toEqual(portrait(source.path));
});

test("a change is made to a file below the root and to nothing else", async () => {
  await using folder = await temporaryFolder();
  await using outside = await temporaryFolder();
  const victim = join(outside.path, "victim");
  writeFileSync(victim, "untouched");
  symlinkSync(victim, join(folder.path, "link"));
  symlinkSync(outside.path, join(folder.path, "folder"));
  mkdirSync(join(folder.path, "real"));
  const patch = (name: string, cleared = "0,4"): Buffer =>
    Buffer.concat([
      encodeTarHeader({
        ...{ name, type: "file", mode: 0o600, uid: 0, gid: 0, mtimeNs: 0n, bodyBytes: 0 },
        pax: { [PATCH]: cleared, [SPARSE_SIZE]: "4" },
      }),
      TAR_END,
    ]);
  for (const name of ["link", "folder/victim", "../victim", "real", "absent"])
    await expect(applyLayer(folder.path, once(patch(name)), { signal }), name).rejects.toMatchObject({
      code: expect.stringMatching(/^(corrupt|invalid)$/),
    });
  writeFileSync(join(folder.path, "file"), "12345678");
  for (const cleared of ["2,4", "-1,2", "1,1,0,1", "x", "0"])
    await expect(applyLayer(folder.path, once(patch("file", cleared)), { signal })).rejects.toMatchObject({
      code: "corrupt",
    });
  expect(readFileSync(victim, "utf8")).toBe("untouched");
  rmSync(join(folder.path, "file"));
});

test("a file with more changes than fit a header is sent whole", () => {
  const before = new FileBlocks();
  const now = new FileBlocks();
  const digest = { a: 1, b: 2, c: 3, d: 4 };
  for (let block = 0; block < 80_000; block += 1) {
    before.push(block, digest);
    now.push(block, block % 2 === 0 ? digest : { ...digest, d: 5 });
  }
  const sizeBytes = 80_000 * 64 * 1024;
  expect(patchOf(before, now, [{ offset: 0, length: sizeBytes }], { sizeBytes })).toBeUndefined();
  expect(patchOf(before, before, [{ offset: 0, length: sizeBytes }], { sizeBytes })).toMatchObject({
    segments: [],
    bodyBytes: 0,
  });
});

const write = (offset: number, length: number): Edit => ({ kind: "write", offset, length, fill: 0xaa });
