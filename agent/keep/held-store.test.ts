import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { tmpdir } from "node:os";

import { pino } from "pino";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { PageHasher } from "../native/page-hash.ts";
import { HeldStore, type Loan } from "./held-store.ts";

const PAGE = 4096;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-held-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const open = (terms: { limitBytes?: number; ageMs?: number } = {}): Promise<HeldStore> =>
  HeldStore.open({ folder: join(folder, "held"), logger: pino({ level: "silent" }), ...terms });

/** As a move does it. */
async function leave(
  store: HeldStore,
  id: string,
  pieces: { address: number; bytes: Buffer }[],
): Promise<void> {
  const recording = store.record(id);
  for (const { address, bytes } of pieces) await recording.add("1-1", address, bytes);
  await recording.close();
  store.keep(recording);
  await vi.waitFor(async () => {
    await using loan = store.lend(id);
    expect(loan).toBeDefined();
  }, 20_000);
}

async function contentOf({ memory }: Loan, first: number, pages: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of memory.read({ space: "1-1", first, pages })) pieces.push(piece);
  return Buffer.concat(pieces);
}

test("pages come out as they went in, the latest of each; on the disk nobody can read them", async () => {
  await using store = await open();
  const [early, late] = [randomBytes(700 * PAGE), randomBytes(3 * PAGE)];
  await leave(store, "a", [
    { address: 10 * PAGE, bytes: early },
    { address: 12 * PAGE, bytes: late },
  ]);
  const expected = Buffer.from(early);
  late.copy(expected, 2 * PAGE);
  await using loan = store.lend("a");
  if (loan === undefined) throw new Error("nothing is held");
  const content = await contentOf(loan, 10, 700);
  expect(content.equals(expected)).toBe(true);
  const hasher = new PageHasher(content);
  expect(loan.memory.index.holds("1-1", 10, hasher.digest(0))).toBe(true);
  expect(loan.memory.index.holds("1-1", 11, hasher.digest(0))).toBe(false);
  await expect(contentOf(loan, 709, 2)).rejects.toMatchObject({ code: "corrupt" });

  const held = join(folder, "held");
  expect(statSync(held).mode & 0o777).toBe(0o700);
  const [file = ""] = readdirSync(held);
  expect(statSync(join(held, file)).mode & 0o777).toBe(0o600);
  const onDisk = readFileSync(join(held, file));
  expect(onDisk.byteLength).toBe(703 * PAGE);
  expect(onDisk.includes(early.subarray(0, 32))).toBe(false);
});

test("a file that was damaged is noticed, and gone afterwards", async () => {
  await using store = await open();
  await leave(store, "a", [{ address: 0, bytes: randomBytes(4 * PAGE) }]);
  const [file = ""] = readdirSync(join(folder, "held"));
  const bytes = readFileSync(join(folder, "held", file));
  bytes[2 * PAGE + 5]! ^= 1;
  writeFileSync(join(folder, "held", file), bytes);
  {
    await using loan = store.lend("a");
    if (loan === undefined) throw new Error("nothing is held");
    expect(await contentOf(loan, 0, 1)).toHaveLength(PAGE);
    await expect(contentOf(loan, 0, 4)).rejects.toMatchObject({ code: "corrupt" });
  }
  expect(store.lend("a")).toBeUndefined();
  expect(readdirSync(join(folder, "held"))).toEqual([]);
});

test("what is held goes when it is old, when its container is gone and when there is no room", async () => {
  const held = join(folder, "held");
  await using store = await open({ ageMs: 300, limitBytes: 3 * 1024 * PAGE });
  await leave(store, "old", [{ address: 0, bytes: randomBytes(PAGE) }]);
  await vi.waitFor(() => expect(readdirSync(held)).toEqual([]), 10_000);
  expect(store.lend("old")).toBeUndefined();

  await using lasting = await open({ limitBytes: 1024 * PAGE });
  await leave(lasting, "first", [{ address: 0, bytes: randomBytes(600 * PAGE) }]);
  await leave(lasting, "second", [{ address: 0, bytes: randomBytes(600 * PAGE) }]);
  expect(lasting.lend("first")).toBeUndefined();
  // More than all that may be held: as much of it as may.
  await leave(lasting, "third", [{ address: 0, bytes: randomBytes(3000 * PAGE) }]);
  expect(readdirSync(held).map((file) => statSync(join(held, file)).size)).toEqual([1024 * PAGE]);

  const loan = lasting.lend("third");
  await lasting.forget("third");
  expect(readdirSync(held)).toHaveLength(1);
  expect(await contentOf(loan!, 0, 1)).toHaveLength(PAGE);
  await loan![Symbol.asyncDispose]();
  expect(readdirSync(held)).toEqual([]);
});

test("an agent that starts deletes what an earlier one has left", async () => {
  mkdirSync(join(folder, "held"));
  writeFileSync(join(folder, "held", "a-1.pages"), "x");
  const store = await open();
  expect(readdirSync(join(folder, "held"))).toEqual([]);
  for (const isClosed of [true, false]) {
    await using recording = store.record("b");
    await recording.add("1-1", 0, randomBytes(PAGE));
    if (isClosed) await recording.close();
  }
  // Its thread has not even begun.
  await store.record("c")[Symbol.asyncDispose]();
  expect(readdirSync(join(folder, "held"))).toEqual([]);
  await store[Symbol.asyncDispose]();
  expect(existsSync(join(folder, "held"))).toBe(false);
});
