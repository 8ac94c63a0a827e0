import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, expect, test } from "vitest";

import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { encodePageRun, LAST_ROUND } from "../migrate/page-run.ts";
import { encodeRecordHeader } from "../stream/records.ts";
import { readChain } from "./chain.ts";
import { SealedFileWriter } from "./sealed-file.ts";

const folder = mkdtempSync(join(tmpdir(), "gw-chain-"));
afterAll(() => rmSync(folder, { recursive: true }));

type Entry = readonly [kind: RecordKind, name: string, body: Uint8Array];
const text = (kind: RecordKind, body: string, name = ""): Entry => [kind, name, Buffer.from(body)];
const page = (letter: string, address: number): Entry => [
  RecordKind.PAGES,
  "1-1",
  Buffer.concat([encodePageRun({ address, pages: 1, kind: "content" }), Buffer.alloc(4096, letter)]),
];
const gone = (address: number): Entry => [
  RecordKind.PAGES,
  "1-1",
  encodePageRun({ address, pages: 1, kind: "gone" }),
];
const roundEnd = (name = ""): Entry => text(RecordKind.ROUND_END, "", name);

interface Written {
  readonly path: string;
  readonly key: Buffer;
  readonly salt: Uint8Array;
}

function write(name: string, entries: readonly Entry[], base?: Written): Written {
  const path = join(folder, name);
  const key = Buffer.alloc(32, name);
  using file = new SealedFileWriter(path, key, base?.salt);
  for (const [kind, entryName, body] of [...entries, text(RecordKind.END, "")]) {
    file.write(encodeRecordHeader({ kind, length: body.byteLength, name: entryName }));
    file.write(body);
  }
  file.finish();
  return { path, key, salt: file.salt };
}

async function read(files: readonly Written[]): Promise<string[]> {
  const seen: string[] = [];
  for await (const { header, body } of readChain(files)) {
    const pieces: Uint8Array[] = [];
    for await (const piece of body) pieces.push(piece);
    const bytes = Buffer.concat(pieces);
    const what = header.kind === RecordKind.PAGES ? bytes.subarray(16, 17) : bytes;
    seen.push(`${header.kind.replace("RECORD_KIND_", "")} ${header.name} ${what.toString()}`.trim());
  }
  return seen;
}

const first = write("first", [
  text(RecordKind.LAYER, "files"),
  text(RecordKind.LAYER, ""),
  text(RecordKind.LOG, "log", "0"),
  page("a", 4096),
  roundEnd(),
  roundEnd(),
  page("b", 8192),
  gone(4096),
  roundEnd(LAST_ROUND),
  text(RecordKind.IMAGE_FILE, "x", "core-1.img"),
  text(RecordKind.IMAGE_FILE, "", "core-1.img"),
  text(RecordKind.DESCRIPTION, "then"),
]);
const second = write(
  "second",
  [
    text(RecordKind.LAYER_DELETIONS, "gone"),
    text(RecordKind.LOG, "more", "3"),
    roundEnd(),
    page("c", 8192),
    gone(4096),
    roundEnd(LAST_ROUND),
    text(RecordKind.IMAGE_FILE, "y", "core-1.img"),
    text(RecordKind.IMAGE_FILE, "", "core-1.img"),
    text(RecordKind.DESCRIPTION, "now"),
  ],
  first,
);

test("one alone is read as it was written", async () => {
  expect(await read([first])).toHaveLength(13);
});

test("of what it builds upon, a checkpoint takes files, log and pages, and nothing that is of that moment only", async () => {
  expect(await read([first, second])).toEqual([
    "LAYER  files",
    "LAYER",
    "LOG 0 log",
    "PAGES 1-1 a",
    "ROUND_END",
    "PAGES 1-1 b",
    "ROUND_END",
    "LAYER_DELETIONS  gone",
    "LOG 3 more",
    "ROUND_END",
    "PAGES 1-1 c",
    "PAGES 1-1",
    "ROUND_END last",
    "IMAGE_FILE core-1.img y",
    "IMAGE_FILE core-1.img",
    "DESCRIPTION  now",
    "END",
  ]);
});

test("one opens only above the very file that it builds upon", async () => {
  // As genuine, under the same name and key, and of another moment.
  const otherTry = write("first", [page("z", 4096), roundEnd(LAST_ROUND), text(RecordKind.DESCRIPTION, "x")]);
  expect(await read([otherTry])).toContain("PAGES 1-1 z");
  await expect(read([otherTry, second])).rejects.toMatchObject({ code: "corrupt" });
  await expect(read([second])).rejects.toMatchObject({ code: "corrupt" });
  const third = write("third", [text(RecordKind.DESCRIPTION, "later")], second);
  await expect(read([second, third])).rejects.toMatchObject({ code: "corrupt" });
  const swapped = join(folder, "swapped");
  writeFileSync(swapped, readFileSync(third.path));
  await expect(read([otherTry, { ...second, path: swapped }])).rejects.toMatchObject({ code: "corrupt" });
});
