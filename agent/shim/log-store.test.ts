import { mkdtempSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { appendFile, mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { followLog, LogImport, logRange, LogWriter, readLog, tailOffset } from "./log-store.ts";

const AT = new Date("2026-01-31T12:00:00.000Z");
let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "godwit-log-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const line = (i: number): Buffer => Buffer.from(`o ${AT.toISOString()} line ${String(i).padStart(6, "0")}\n`);
const LINE = line(0).length;

async function readAll(from = 0): Promise<{ offset: number; text: string }> {
  let text = "";
  let offset = -1;
  for (let at = from; ;) {
    const piece = await readLog(dir, at);
    if (piece.data.length === 0) return { offset, text };
    if (offset < 0) offset = piece.offset;
    text += piece.data.toString();
    at = piece.offset + piece.data.length;
  }
}
function write(writer: LogWriter, from: number, to: number): void {
  for (let i = from; i < to; i += 1) writer.append(line(i), AT);
}
const expected = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, i) => line(from + i).toString()).join("");

describe("the log of a container", () => {
  test("there is none yet: it is empty, not an error", async () => {
    expect(await logRange(join(dir, "absent"))).toEqual({ startOffset: 0, endOffset: 0 });
    expect((await readLog(join(dir, "absent"), 5)).data.length).toBe(0);
    expect(await tailOffset(join(dir, "absent"), 10)).toBe(0);
  });

  test("rotation keeps the newest two files, and offsets go on", async () => {
    using writer = LogWriter.open(dir, 10 * LINE);
    write(writer, 0, 35);
    expect(writer.offset).toBe(35 * LINE);
    expect(await logRange(dir)).toEqual({ startOffset: 20 * LINE, endOffset: 35 * LINE });
    expect(await readAll()).toEqual({ offset: 20 * LINE, text: expected(20, 35) });
    expect((await readAll(27 * LINE)).text).toBe(expected(27, 35));
    expect(readdirSync(dir).toSorted()).toEqual(["log.current", "log.json", "log.previous"]);
    expect(statSync(join(dir, "log.current")).mode & 0o777).toBe(0o600);
  });

  test.each([
    [0, 35],
    [1, 34],
    [5, 30],
    [6, 29],
    [15, 20],
    [99, 20],
    [-1, 20],
  ])("the last %i lines begin at line %i", async (lines, first) => {
    using writer = LogWriter.open(dir, 10 * LINE);
    write(writer, 0, 35);
    expect(await tailOffset(dir, lines)).toBe(first * LINE);
  });

  test("the tail of a log that is larger than one read", async () => {
    using writer = LogWriter.open(dir);
    write(writer, 0, 5_000);
    expect(await tailOffset(dir, 4_321)).toBe(679 * LINE);
  });

  test("goes on after its writer died, whatever a rotation had done by then", async () => {
    const go = (): LogWriter => LogWriter.open(dir, 10 * LINE);
    using first = go();
    write(first, 0, 15);
    // Cut between the two renames of a rotation: log.next is what log.current would have become.
    renameSync(join(dir, "log.current"), join(dir, "log.next"));
    using second = go();
    expect(second.offset).toBe(15 * LINE);
    write(second, 15, 18);
    // Cut before the renames: log.next is empty and never counted.
    await appendFile(join(dir, "log.next"), "");
    using third = go();
    expect(third.offset).toBe(18 * LINE);
    write(third, 18, 25);
    expect(await readAll()).toEqual({ offset: 10 * LINE, text: expected(10, 25) });
  });

  test("a line that a lost machine left without its end gets one", async () => {
    using first = LogWriter.open(dir);
    write(first, 0, 1);
    await appendFile(join(dir, "log.current"), "o torn");
    using second = LogWriter.open(dir);
    write(second, 1, 2);
    expect((await readAll()).text).toBe(`${expected(0, 1)}o torn\n${expected(1, 2)}`);
  });

  test("is read while it is rotated, without a gap", async () => {
    using writer = LogWriter.open(dir, 200 * LINE);
    let next = 0;
    const writing = (async () => {
      for (let i = 0; i < 1_500; i += 10) {
        write(writer, i, i + 10);
        // Never further ahead than one file: then nothing that is not read yet can be dropped.
        const mayGoOn = (): boolean => next >= (i - 150) * LINE;
        do await new Promise(setImmediate);
        while (!mayGoOn());
      }
    })();
    const signal = AbortSignal.timeout(20_000);
    for await (const { offset, data } of followLog(dir, 0, signal)) {
      expect(offset).toBe(next);
      expect(data.toString()).toBe(expected(offset / LINE, (offset + data.length) / LINE));
      next = offset + data.length;
      if (next === 1_500 * LINE) break;
    }
    await writing;
    expect(next).toBe(1_500 * LINE);
  });

  test("following waits for a log that is not there yet, and ends behind what was written", async () => {
    const later = join(dir, "later");
    const finish = new AbortController();
    const texts: string[] = [];
    const following = (async () => {
      for await (const piece of followLog(later, 0, AbortSignal.timeout(10_000), finish.signal)) {
        texts.push(piece.data.toString());
      }
    })();
    await mkdir(later);
    using writer = LogWriter.open(later);
    write(writer, 0, 3);
    finish.abort();
    await following;
    expect(texts.join("")).toBe(expected(0, 3));
  });

  test("following ends when it is told to", async () => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 20);
    for await (const piece of followLog(dir, 0, stop.signal)) expect(piece).toBeUndefined();
  });
});

describe("a log that arrives from another host", () => {
  test("keeps its offsets, and begins anew when it is brought again", async () => {
    using before = LogWriter.open(dir);
    write(before, 0, 50);
    for (let attempt = 0; attempt < 2; attempt += 1) {
      using arriving = new LogImport(dir);
      arriving.append(700, line(7));
      arriving.append(700 + LINE, Buffer.concat([line(8), line(9)]));
      arriving.finish(700 + 3 * LINE);
    }
    using writer = LogWriter.open(dir);
    write(writer, 10, 12);
    expect(await readAll()).toEqual({ offset: 700, text: expected(7, 12) });
  });

  test("begins anew after a gap: the source threw away what it had not sent yet", async () => {
    using arriving = new LogImport(dir);
    arriving.append(10, line(1));
    arriving.append(100, line(2));
    arriving.finish(100 + LINE);
    expect(await logRange(dir)).toEqual({ startOffset: 100, endOffset: 100 + LINE });
  });

  test("refuses what it has already, and an end that it has not reached", () => {
    using arriving = new LogImport(dir);
    arriving.append(10, line(1));
    expect(() => arriving.append(10, line(1))).toThrow(/goes on at/);
    expect(() => arriving.finish(11 + LINE)).toThrow(/goes on at/);
  });

  test("may be empty and yet have an offset", async () => {
    using arriving = new LogImport(dir);
    arriving.finish(12_345);
    expect(await logRange(dir)).toEqual({ startOffset: 12_345, endOffset: 12_345 });
  });
});
