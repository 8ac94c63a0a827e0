import * as fc from "fast-check";
import { expect, test } from "vitest";
import { componentsOf, TarPolicy } from "./tar-policy.ts";

const header = (name: string, type: string | null = "file", linkname: string | null = null) => ({
  name,
  type,
  linkname,
  size: 0,
  pax: null,
});

test("property: whatever passes stays below the root, read as a file system reads it", () => {
  const component = fc.constantFrom("a", "b", "..", ".", "", "c.d", "...", "~");
  fc.assert(
    fc.property(fc.array(component, { minLength: 1, maxLength: 8 }), (parts) => {
      const path = parts.join("/");
      let components: string[];
      try {
        components = componentsOf(path, "entry");
      } catch {
        return;
      }
      expect(path.startsWith("/")).toBe(false);
      expect(components.every((part) => part !== ".." && part !== "." && part !== "")).toBe(true);
    }),
  );
});

test("property: no accepted entry lies below a symbolic link that was accepted before it", () => {
  const path = fc
    .array(fc.constantFrom("a", "b", "c"), { minLength: 1, maxLength: 4 })
    .map((parts) => parts.join("/"));
  const entry = fc.record({
    path,
    type: fc.constantFrom("file", "symlink", "directory", "link"),
    target: path,
  });
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 20 }), (entries) => {
      const policy = new TarPolicy();
      const links = new Set<string>();
      for (const { path: name, type, target } of entries) {
        try {
          policy.check(header(name, type, type === "symlink" || type === "link" ? target : null));
        } catch {
          continue;
        }
        const parents = name.split("/").map((_, i, all) => all.slice(0, i).join("/"));
        expect(parents.some((parent) => links.has(parent))).toBe(false);
        if (type === "symlink" || (type === "link" && links.has(target))) links.add(name);
      }
    }),
  );
});

test("limits of entries, links and bytes, and sizes that are no numbers", () => {
  const few = new TarPolicy({ maxEntries: 2, maxSymlinks: 1, maxBytes: 10 });
  few.check(header("a", "symlink", "x"));
  expect(() => few.check(header("b", "symlink", "x"))).toThrow("more than 1 symbolic links");
  expect(() => few.check(header("c"))).toThrow("more than 2 entries");
  const small = new TarPolicy({ maxEntries: 9, maxSymlinks: 9, maxBytes: 10 });
  expect(() => small.check({ ...header("a"), size: 11 })).toThrow("limit of 10 bytes");
  expect(() => new TarPolicy().check({ ...header("a"), size: Number.NaN })).toThrow("size");
  expect(() => new TarPolicy().check(header("a", null))).toThrow("not supported");
});
