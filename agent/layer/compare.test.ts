import * as fc from "fast-check";
import { expect, test } from "vitest";

import { compareLayers, withOtherNames } from "./compare.ts";
import { sharedWritableFiles } from "./mappings.ts";
import { decodePaths, encodePaths, parentPath, splitPath } from "./paths.ts";
import { decodePax, encodePax, formatTime, parseTime } from "./pax.ts";
import { boundSegments, decodeSegments, encodeSegments } from "./sparse.ts";
import type { EntryKind, EntryStamp } from "./stamp.ts";

const stamp = (fields: Partial<EntryStamp> = {}): EntryStamp => ({
  kind: "file",
  inode: 1n,
  sizeBytes: 1,
  mtimeNs: 1n,
  ctimeNs: 1n,
  mode: 0o644,
  uid: 0,
  gid: 0,
  settled: true,
  ...fields,
});
const folder = (fields: Partial<EntryStamp> = {}): EntryStamp => stamp({ kind: "directory", ...fields });
const layer = (entries: Record<string, EntryStamp>): Map<string, EntryStamp> =>
  new Map(Object.entries(entries));

test("compareLayers: new, changed, unsettled, gone", () => {
  const before = layer({
    ".": folder(),
    a: stamp(),
    b: stamp(),
    c: stamp({ settled: false }),
    d: folder(),
    "d/x": stamp(),
  });
  const after = layer({ ".": folder(), a: stamp(), b: stamp({ ctimeNs: 2n }), c: stamp(), e: stamp() });
  expect(compareLayers(before, after)).toEqual({ changed: ["b", "c", "e"], deleted: ["d"] });
});

test.each<[string, Partial<EntryStamp>]>([
  ["inode", { inode: 2n }],
  ["size", { sizeBytes: 2 }],
  ["modification time", { mtimeNs: 2n }],
  ["mode", { mode: 0o600 }],
  ["owner", { uid: 1 }],
  ["group", { gid: 1 }],
  ["kind", { kind: "fifo" }],
])("compareLayers: another %s is a change", (_, fields) => {
  expect(compareLayers(layer({ a: stamp() }), layer({ a: stamp(fields) })).changed).toEqual(["a"]);
});

test("compareLayers: a folder that became a file takes its content with it", () => {
  const before = layer({ ".": folder(), d: folder(), "d/x": stamp(), "d/y": folder(), "d/y/z": stamp() });
  expect(compareLayers(before, layer({ ".": folder(), d: stamp() }))).toEqual({
    changed: ["d"],
    deleted: [],
  });
});

const names = fc.constantFrom("a", "b", "c");
const tree = fc
  .array(
    fc.tuple(
      fc.array(names, { minLength: 1, maxLength: 3 }),
      fc.constantFrom<EntryKind>("file", "directory"),
      fc.nat({ max: 2 }),
    ),
  )
  .map((entries) => {
    const result = new Map<string, EntryStamp>([[".", folder()]]);
    for (const [components, kind, version] of entries) {
      const path = components.join("/");
      const parent = result.get(parentPath(path));
      if (parent?.kind === "directory" && !result.has(path)) {
        result.set(path, stamp({ kind, ctimeNs: BigInt(version) }));
      }
    }
    return result;
  });

test("compareLayers: removing and then writing what it says turns one layer into the other", () => {
  fc.assert(
    fc.property(tree, tree, (before, after) => {
      const { changed, deleted } = compareLayers(before, after);
      const state = new Map(before);
      const removeTree = (path: string, itself: boolean): void => {
        for (const other of state.keys()) {
          if ((itself && other === path) || other.startsWith(`${path}/`)) state.delete(other);
        }
      };
      for (const path of deleted) removeTree(path, true);
      for (const path of changed) {
        const wanted = after.get(path) ?? stamp();
        if (wanted.kind !== "directory") removeTree(path, true);
        expect(state.get(parentPath(path))?.kind).toBe("directory");
        state.set(path, wanted);
      }
      expect(Object.fromEntries(state)).toEqual(Object.fromEntries(after));
    }),
  );
});

test.each(["../x", "a/../../x", "/etc/passwd", "..", "a/..", "a\0b", `a/${"n".repeat(256)}`])(
  "splitPath refuses %j",
  (path) => {
    expect(() => splitPath(path)).toThrow(expect.objectContaining({ code: "invalid" }));
  },
);

test.each<[string, string[]]>([
  [".", []],
  ["./", []],
  ["", []],
  ["./a//b/", ["a", "b"]],
  ["a/./..b/...", ["a", "..b", "..."]],
])("splitPath takes %j apart", (path, components) => {
  expect(splitPath(path)).toEqual(components);
});

const byteString = fc
  .uint8Array({ minLength: 1, maxLength: 40 })
  .map((bytes) => Buffer.from(bytes).toString("latin1"));

test("lists of paths, PAX records, times and hole maps survive encoding", () => {
  const path = byteString.map((text) => text.replaceAll("\0", "x"));
  fc.assert(
    fc.property(fc.array(path), (paths) => {
      expect(decodePaths(encodePaths(paths))).toEqual(paths);
    }),
  );
  const key = byteString.map((text) => `SCHILY.xattr.${text.replaceAll(/[=\0]/g, "x")}`);
  fc.assert(
    fc.property(fc.dictionary(key, fc.uint8Array({ maxLength: 2000 })), (records) => {
      const values = Object.entries(records).map(
        ([name, value]) => [name, Buffer.from(value).toString("latin1")] as const,
      );
      expect(Object.entries(decodePax(encodePax(Object.fromEntries(values))))).toEqual(values);
    }),
  );
  fc.assert(
    fc.property(fc.bigInt(-(10n ** 19n), 10n ** 20n), (time) => {
      expect(parseTime(formatTime(time))).toBe(time);
    }),
  );
});

test("joining the smallest holes keeps all data within the bound", () => {
  const gaps = fc.array(fc.tuple(fc.integer({ min: 1, max: 100_000 }), fc.integer({ min: 1, max: 9000 })), {
    minLength: 1,
  });
  fc.assert(
    fc.property(gaps, fc.integer({ min: 1, max: 10 }), (pairs, maximum) => {
      let end = 0;
      const segments = pairs.map(([gap, length]) => {
        const segment = { offset: end + gap, length };
        end = segment.offset + length;
        return segment;
      });
      const joined = boundSegments(segments, maximum);
      expect(joined.length).toBeLessThanOrEqual(maximum);
      for (const { offset, length } of segments) {
        expect(joined.some((j) => j.offset <= offset && offset + length <= j.offset + j.length)).toBe(true);
      }
      const total = joined.reduce((sum, { length }) => sum + length, 0);
      expect(decodeSegments(encodeSegments(joined), end, total)).toEqual(joined);
    }),
  );
});

test.each<[string, string, number, number]>([
  ["odd", "0", 10, 0],
  ["not a number", "0,x", 10, 1],
  ["out of order", "5,1,0,1", 10, 2],
  ["overlapping", "0,5,4,2", 10, 7],
  ["beyond the end", "8,5", 10, 5],
  ["not the body's length", "0,5", 10, 6],
  ["negative", "-1,5", 10, 5],
  ["empty runs", "0,0", 10, 0],
  ["no size", "0,1", Number.NaN, 1],
])("a hole map is refused: %s", (_, text, size, body) => {
  expect(() => decodeSegments(text, size, body)).toThrow(expect.objectContaining({ code: "corrupt" }));
});

test.each(["x", "5 a=b\n", "7 a=b\n", "0 a=b\n", "6 abc\n", "99 a=b\n", "6 a=bc"])(
  "PAX is refused: %j",
  (text) => {
    expect(() => decodePax(Buffer.from(text))).toThrow(expect.objectContaining({ code: "corrupt" }));
  },
);

test("sharedWritableFiles finds shared writable mappings of files that still have a name", () => {
  const maps = [
    "7f00-7f01 rw-s 00000000 00:2a 1234                       /data/my db\\012x",
    "7f00-7f01 rw-s 00001000 00:2a 1234                       /data/my db\\012x",
    "7f00-7f01 r--s 00000000 00:2a 1235                       /data/read only",
    "7f00-7f01 rw-p 00000000 00:2a 1236                       /usr/lib/libc.so",
    "7f00-7f01 rw-s 00000000 00:01 77                         /dev/zero (deleted)",
    "7f00-7f01 rw-p 00000000 00:00 0                          [heap]",
    "",
  ].join("\n");
  expect(sharedWritableFiles(maps)).toEqual(["data/my db\nx"]);
});

test("all names of a file go together, those of whiteouts and folders do not", () => {
  const layer = new Map([
    ["a", stamp({ kind: "file", inode: 5n })],
    ["b", stamp({ kind: "symlink", inode: 6n })],
    ["c", stamp({ kind: "file", inode: 5n })],
    ["d", stamp({ kind: "symlink", inode: 6n })],
    ["e", stamp({ kind: "whiteout", inode: 0n })],
    ["f", stamp({ kind: "whiteout", inode: 0n })],
    ["g", stamp({ kind: "directory", inode: 7n })],
  ]);
  expect([...withOtherNames(["c"], layer)]).toEqual(["c", "a"]);
  expect([...withOtherNames(["b", "e", "g"], layer)]).toEqual(["b", "e", "g", "d"]);
  expect([...withOtherNames(["gone"], layer)]).toEqual(["gone"]);
});
