import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { CHUNK_BYTES, LINE_BYTES, LineFormatter } from "./log-lines.ts";

const AT = new Date("2026-01-31T12:00:00.000Z");
const STAMP = "2026-01-31T12:00:00.000Z";

/** What a reader that knows the format prints. */
function printed(log: Buffer): Buffer {
  const pieces: Buffer[] = [];
  for (let start = 0; start < log.length;) {
    const end = log.indexOf(10, start);
    expect(log.subarray(start + 1, start + 27).toString()).toBe(` ${STAMP} `);
    const isCut = log[start] === "O".charCodeAt(0);
    pieces.push(log.subarray(start + 27, isCut ? end : end + 1));
    start = end + 1;
  }
  return Buffer.concat(pieces);
}

describe("a container's output becomes lines of its log", () => {
  test("whole lines go out, an unfinished one waits for its end", () => {
    const formatter = new LineFormatter("o");
    expect(formatter.push(Buffer.from("one\ntwo\nthr"), AT).toString()).toBe(
      `o ${STAMP} one\no ${STAMP} two\n`,
    );
    expect(formatter.partial().toString()).toBe("thr");
    expect(formatter.push(Buffer.from("ee\n"), AT).toString()).toBe(`o ${STAMP} three\n`);
    expect(formatter.end(AT).length).toBe(0);
  });

  test("what is unfinished at the end is written as a line", () => {
    const formatter = new LineFormatter("e");
    expect(formatter.push(Buffer.from("prompt> "), AT).length).toBe(0);
    expect(formatter.end(AT).toString()).toBe(`e ${STAMP} prompt> \n`);
    expect(formatter.partial().length).toBe(0);
  });

  test.each([
    [LINE_BYTES, ["o"]],
    [LINE_BYTES + 1, ["O", "o"]],
    [3 * LINE_BYTES, ["O", "O", "o"]],
  ])("a line of %i bytes is cut into %j", (length, streams) => {
    const formatter = new LineFormatter("o");
    const text = `${"x".repeat(length)}\n`;
    const lines: string[] = [];
    for (let at = 0; at < text.length; at += 1000) {
      lines.push(
        ...formatter
          .push(Buffer.from(text.slice(at, at + 1000)), AT)
          .toString()
          .split("\n"),
      );
    }
    const written = lines.filter((line) => line !== "");
    expect(written.map((line) => line[0])).toEqual(streams);
    expect(written.map((line) => line.slice(27)).join("")).toHaveLength(length);
  });

  test("nothing is lost or added, wherever the chunks and a hand-over cut", () => {
    const text = fc
      .array(fc.oneof(fc.constant("\n"), fc.string({ maxLength: 50 }), fc.constant("y".repeat(9_000))), {
        maxLength: 40,
      })
      .map((parts) => Buffer.from(parts.join("")));
    fc.assert(
      fc.property(
        text,
        fc.array(fc.integer({ min: 1, max: CHUNK_BYTES }), { minLength: 1 }),
        (input, sizes) => {
          let formatter = new LineFormatter("o");
          const log: Buffer[] = [];
          for (let at = 0, i = 0; at < input.length; i += 1) {
            const size = sizes[i % sizes.length] ?? 1;
            log.push(Buffer.from(formatter.push(input.subarray(at, at + size), AT)));
            at += size;
            const successor = new LineFormatter("o");
            successor.restore(formatter.partial());
            formatter = successor;
          }
          const rest = Buffer.from(formatter.end(AT));
          const expected = rest.length > 0 ? Buffer.concat([input, Buffer.from("\n")]) : input;
          expect(printed(Buffer.concat([...log, rest])).equals(expected)).toBe(true);
        },
      ),
    );
  });

  test("a chunk of newlines only fits", () => {
    const formatter = new LineFormatter("e");
    formatter.push(Buffer.alloc(LINE_BYTES, 120), AT);
    const log = formatter.push(Buffer.alloc(CHUNK_BYTES, 10), AT);
    expect(log.length).toBe(LINE_BYTES + CHUNK_BYTES * 28);
  });
});
