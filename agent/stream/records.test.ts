import * as fc from "fast-check";
import { expect, test } from "vitest";

import { RecordHeader, RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { encodeRecordHeader, readRecords } from "./records.ts";

async function* inPieces(bytes: Uint8Array, sizes: number[]): AsyncGenerator<Uint8Array> {
  for (let offset = 0, turn = 0; offset < bytes.byteLength; turn++) {
    const size = sizes[turn % sizes.length] ?? 1;
    yield bytes.subarray(offset, offset + size);
    offset += size;
  }
}

async function collect(
  chunks: AsyncIterable<Uint8Array>,
  skipEvery = 0,
): Promise<[RecordKind, string, string][]> {
  const records: [RecordKind, string, string][] = [];
  for await (const { header, body } of readRecords(chunks)) {
    const skipped = skipEvery > 0 && records.length % skipEvery === 0;
    const parts: Uint8Array[] = [];
    if (!skipped) for await (const part of body) parts.push(Buffer.from(part));
    records.push([header.kind, header.name, skipped ? "skipped" : Buffer.concat(parts).toString("latin1")]);
  }
  return records;
}

const END = encodeRecordHeader({ kind: RecordKind.END });
const kinds = fc.constantFrom(
  RecordKind.DESCRIPTION,
  RecordKind.LAYER,
  RecordKind.LOG,
  RecordKind.IMAGE_FILE,
);

test("records come out as they went in, however the stream was cut, also when some are skipped", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(kinds, fc.uint8Array({ maxLength: 400 })), { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 97 }), { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 0, max: 3 }),
      async (records, sizes, skipEvery) => {
        const parts = records.flatMap(([kind, body]) => [
          encodeRecordHeader({ kind, length: body.byteLength, name: "pages-1.img" }),
          body,
        ]);
        const got = await collect(inPieces(Buffer.concat([...parts, END]), sizes), skipEvery);
        const wanted = records.map(([kind, body], index) => [
          kind,
          "pages-1.img",
          skipEvery > 0 && index % skipEvery === 0 ? "skipped" : Buffer.from(body).toString("latin1"),
        ]);
        expect(got.slice(0, -1)).toEqual(wanted);
        expect(got.at(-1)?.[0]).toBe(RecordKind.END);
      },
    ),
  );
});

const framed = (fields: Partial<RecordHeader>): Buffer => {
  const header = RecordHeader.encode(RecordHeader.fromPartial(fields)).finish();
  return Buffer.concat([Uint8Array.of(header.byteLength), header]);
};

test.each<[string, Uint8Array]>([
  ["nothing", new Uint8Array(0)],
  ["no end record", framed({ kind: RecordKind.LOG })],
  ["a header cut short", END.subarray(0, 1)],
  ["a body cut short", framed({ kind: RecordKind.LOG, length: 5 })],
  ["bytes behind the end", Buffer.concat([END, Uint8Array.of(0)])],
  ["a header that is too long", Uint8Array.of(0xff, 0xff, 0xff, 0x7f)],
  ["an endless length", Uint8Array.of(0x80, 0x80, 0x80, 0x80, 0x80)],
  ["no kind", framed({ length: 1 })],
  ["a path as name", framed({ kind: RecordKind.IMAGE_FILE, name: "a/b" })],
  ["the parent folder as name", framed({ kind: RecordKind.IMAGE_FILE, name: ".." })],
  ["no name", framed({ kind: RecordKind.IMAGE_FILE })],
  ["a NUL in the name", framed({ kind: RecordKind.IMAGE_FILE, name: "a\0" })],
  ["a long name", framed({ kind: RecordKind.IMAGE_FILE, name: "a".repeat(256) })],
  ["an unknown kind", Uint8Array.of(2, 8, 99)],
])("refused: %s", async (_, bytes) => {
  await expect(collect(inPieces(bytes, [3]))).rejects.toMatchObject({ code: "corrupt" });
});

test("leaving early closes the source", async () => {
  let closed = false;
  async function* source(): AsyncGenerator<Uint8Array> {
    try {
      for (;;) yield framed({ kind: RecordKind.LOG, length: 0 });
    } finally {
      closed = true;
    }
  }
  for await (const record of readRecords(source())) if (record.header.kind === RecordKind.LOG) break;
  expect(closed).toBe(true);
});
