import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import * as fc from "fast-check";
import { afterAll, expect, test } from "vitest";

import { NO_BASE, readSealedFile, SealedFileWriter } from "./sealed-file.ts";

const folder = mkdtempSync(join(tmpdir(), "gw-sealed-"));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, "one");
const key = Buffer.alloc(32, 7);

const write = (pieces: readonly Uint8Array[]): void => {
  using file = new SealedFileWriter(path, key);
  for (const [at, piece] of pieces.entries()) {
    if (at === 1) file.hurry();
    file.write(piece);
  }
  file.finish();
  expect(file.sizeBytes).toBe(statSync(path).size);
};
const read = async (with_ = key): Promise<Buffer> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of readSealedFile({ path, key: with_, base: NO_BASE })) pieces.push(piece);
  return Buffer.concat(pieces);
};

test("what is written in pieces of any size is read again, and cannot be read in the file", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 20 }), async (pieces) => {
      write(pieces);
      expect(await read()).toEqual(Buffer.concat(pieces));
    }),
    { numRuns: 50 },
  );
  const secret = Buffer.from("a secret that is nowhere to be found ".repeat(80_000));
  write([secret, secret.subarray(0, 100)]);
  expect(await read()).toEqual(Buffer.concat([secret, secret.subarray(0, 100)]));
  expect(readFileSync(path).includes("a secret")).toBe(false);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  await expect(read(Buffer.alloc(32, 8))).rejects.toMatchObject({ code: "corrupt" });
});

test("a second try under the same key seals nothing alike", () => {
  write([Buffer.alloc(1000, 1)]);
  const first = readFileSync(path);
  write([Buffer.alloc(1000, 1)]);
  expect(readFileSync(path).subarray(36).equals(first.subarray(36))).toBe(false);
});

test("one that is cut off, changed, longer or in another order is refused", async () => {
  const megabyte = (letter: string): Buffer => Buffer.alloc(1024 * 1024, letter);
  write([megabyte("a"), megabyte("b"), Buffer.from("end")]);
  const whole = readFileSync(path);
  const frame = (at: number): number => at + 4 + whole.readUInt32LE(at);
  const first = 36;
  const second = frame(first);
  const third = frame(second);
  const spoilt = Buffer.from(whole);
  spoilt.writeUInt8(spoilt.readUInt8(second + 40) ^ 1, second + 40);
  const cases = [
    whole.subarray(0, third),
    whole.subarray(0, whole.length - 1),
    whole.subarray(0, 10),
    Buffer.concat([
      whole.subarray(0, first),
      whole.subarray(second, third),
      whole.subarray(first, second),
      whole.subarray(third),
    ]),
    Buffer.concat([whole.subarray(0, second), whole.subarray(third)]),
    spoilt,
  ];
  for (const bytes of cases) {
    writeFileSync(path, bytes);
    await expect(read()).rejects.toMatchObject({ code: "corrupt" });
  }
  writeFileSync(path, whole);
  appendFileSync(path, "x");
  await expect(read()).rejects.toMatchObject({ code: "corrupt" });
});

test("what comes while a container stands still is put aside, up to a limit, and stays in order", async () => {
  const pieces = Array.from({ length: 40 }, (_, at) => Buffer.alloc(700_000, at));
  write(pieces);
  expect((await read()).equals(Buffer.concat(pieces))).toBe(true);
  // The oldest are sealed as they are when there is too much; what waited is compressed.
  expect(statSync(path).size).toBeGreaterThan(10 * 1024 * 1024);
  expect(statSync(path).size).toBeLessThan(12 * 1024 * 1024);
});
