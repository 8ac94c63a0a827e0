import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { PAGE_SERVER_ADD_F, pageServerHeader, PageStreamParser } from "./page-server.ts";

const PAGE = 64; // small pages keep the examples small; the parser does not care
const OPEN2 = 4;
const FORCE_CLOSE = 0x1024;
const header = pageServerHeader("4.2.1");

interface Command {
  readonly operation: number;
  readonly pages: number;
  readonly address: number;
  readonly space: bigint;
  readonly inParent?: boolean;
}

function encode({ operation, pages, address, space, inParent = false }: Command): Buffer {
  const head = Buffer.alloc(header.bytes);
  const flags = operation !== PAGE_SERVER_ADD_F ? 0 : inParent ? 1 : 4;
  head.writeUInt32LE((flags << 16) | operation, 0);
  head.writeBigUInt64LE(BigInt(pages), 8);
  head.writeBigUInt64LE(BigInt(address), 16);
  head.writeBigUInt64LE((space << 8n) | 1n, 24);
  const content = flags === 4 ? pages * PAGE : 0;
  return Buffer.concat([head, Buffer.alloc(content, address / PAGE)]);
}

test.each([
  ["4.1.1", 24, 4, 8, 16],
  ["4.2.1", 32, 8, 16, 24],
] as const)("the header of CRIU %s", (version, bytes, pagesAt, addressAt, destinationAt) => {
  const head = Buffer.alloc(bytes);
  head.writeUInt32LE((4 << 16) | PAGE_SERVER_ADD_F, 0);
  head.writeUInt32LE(7, pagesAt);
  head.writeUInt32LE(0x7f00, addressAt);
  head.writeUInt32LE(0x601, destinationAt);
  const layout = pageServerHeader(version);
  expect(layout.bytes).toBe(bytes);
  expect(layout.decode(new DataView(head.buffer, head.byteOffset, bytes))).toEqual({
    operation: PAGE_SERVER_ADD_F,
    pages: 7,
    address: 0x7f00,
    space: "1-6",
    hasContent: true,
    inParent: false,
  });
});

describe("PageStreamParser", () => {
  test("finds every page, in whatever pieces the stream comes", () => {
    const add = fc.record({
      operation: fc.constant(PAGE_SERVER_ADD_F),
      pages: fc.integer({ min: 1, max: 5 }),
      address: fc.integer({ min: 1, max: 200 }).map((page) => page * PAGE),
      space: fc.constantFrom(1n, 9n),
      inParent: fc.boolean(),
    });
    const open = fc.record({
      operation: fc.constant(OPEN2),
      pages: fc.constant(0),
      address: fc.constant(0),
      space: fc.constantFrom(1n, 9n),
    });
    fc.assert(
      fc.property(
        fc.array(fc.oneof(add, open), { maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1 }),
        (commands, pieces) => {
          const stream = Buffer.concat([
            ...commands.map(encode),
            encode({ operation: FORCE_CLOSE, pages: 0, address: 0, space: 0n }),
          ]);
          const parser = new PageStreamParser(header, PAGE);
          const buffer = Buffer.alloc(1024);
          const pages: string[] = [];
          const opened: string[] = [];
          let filled = 0;
          let sent = 0;
          let finished = false;
          for (let turn = 0; !finished; turn += 1) {
            const piece = Math.min(
              pieces[turn % pieces.length] ?? 1,
              buffer.length - filled,
              stream.length - sent,
            );
            stream.copy(buffer, filled, sent, sent + piece);
            filled += piece;
            sent += piece;
            const parsed = parser.parse(buffer, filled);
            opened.push(...parsed.opened);
            for (const { space, address, pages: count, offset } of parsed.segments) {
              for (let index = 0; index < count; index += 1) {
                const content = offset === undefined ? "parent" : buffer[offset + index * PAGE];
                pages.push(`${space}@${address + index * PAGE}:${content}`);
              }
            }
            buffer.copy(buffer, 0, parsed.consumed, filled);
            filled -= parsed.consumed;
            ({ finished } = parsed);
          }
          const expected = commands.flatMap((command) => {
            if (command.operation === OPEN2) return [];
            const { pages: count, address, space } = command;
            const content = "inParent" in command && command.inParent ? "parent" : (address / PAGE) & 255;
            return Array.from(
              { length: count },
              (_, index) => `1-${space}@${address + index * PAGE}:${content}`,
            );
          });
          expect(pages).toEqual(expected);
          expect(opened).toEqual(
            commands.filter(({ operation }) => operation === OPEN2).map(({ space }) => `1-${space}`),
          );
          expect(filled).toBe(0);
        },
      ),
    );
  });

  test("refuses what CRIU never sends", () => {
    const parser = new PageStreamParser(header, PAGE);
    const stream = encode({ operation: 99, pages: 0, address: 0, space: 0n });
    expect(() => parser.parse(stream, stream.length)).toThrow(/99 is unknown/);
  });
});
