import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LogLines, type Piece } from "./log-lines.ts";

const TIME = "2026-01-31T12:00:00.000Z";
const joined = (pieces: readonly Piece[], stream: "o" | "e"): string =>
  pieces
    .filter((piece) => piece.stream === stream)
    .map((piece) => piece.bytes.toString())
    .join("");

describe("LogLines", () => {
  test("streams, their order, and times", () => {
    const log = `o ${TIME} one\ne ${TIME} bad\no ${TIME} \n`;
    expect(
      new LogLines(false).push(Buffer.from(log)).map(({ stream, bytes }) => [stream, bytes.toString()]),
    ).toEqual([
      ["o", "one\n"],
      ["e", "bad\n"],
      ["o", "\n"],
    ]);
    expect(joined(new LogLines(true).push(Buffer.from(log)), "o")).toBe(`${TIME} one\n${TIME} \n`);
  });

  test("a line that was cut goes on where it was", () => {
    const log = `O ${TIME} first half, \ne ${TIME} between\no ${TIME} second half\n`;
    const pieces = new LogLines(true).push(Buffer.from(log));
    expect(joined(pieces, "o")).toBe(`${TIME} first half, second half\n`);
    expect(joined(pieces, "e")).toBe(`${TIME} between\n`);
  });

  test("what is not in the agreed form is shown and not dropped", () => {
    expect(joined(new LogLines(false).push(Buffer.from("weird\n\n")), "o")).toBe("weird\n\n");
  });

  test("property: however the log is cut into pieces, the text is the same", () => {
    const line = fc.record({
      stream: fc.constantFrom("o", "e", "O", "E"),
      text: fc.string().map((text) => text.replaceAll("\n", "")),
    });
    fc.assert(
      fc.property(fc.array(line), fc.infiniteStream(fc.integer({ min: 1, max: 40 })), (lines, sizes) => {
        const log = Buffer.from(lines.map(({ stream, text }) => `${stream} ${TIME} ${text}\n`).join(""));
        const whole = new LogLines(false).push(log);
        const parser = new LogLines(false);
        const pieces: Piece[] = [];
        for (let from = 0; from < log.length;) {
          const size = sizes.next().value ?? 1;
          pieces.push(...parser.push(log.subarray(from, from + size)));
          from += size;
        }
        for (const stream of ["o", "e"] as const) expect(joined(pieces, stream)).toBe(joined(whole, stream));
      }),
    );
  });
});
