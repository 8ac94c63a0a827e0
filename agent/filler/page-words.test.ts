import fc from "fast-check";
import { expect, test } from "vitest";

import { encodePageWords, PageWordReader } from "./page-words.ts";

const word = fc.record({
  pid: fc.nat(4_194_304),
  address: fc.nat(2 ** 31).map((page) => page * 4096),
  pages: fc.nat(2 ** 31),
});

test("words come out as they went in, in whatever pieces they travel", () => {
  fc.assert(
    fc.property(fc.array(word), fc.integer({ min: 1, max: 50 }), (words, size) => {
      const bytes = encodePageWords(words);
      const reader = new PageWordReader();
      const read = [];
      for (let from = 0; from < bytes.byteLength; from += size)
        read.push(...reader.read(bytes.subarray(from, from + size)));
      expect(read).toEqual(words);
    }),
  );
});
