import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { ImagePages } from "./image-pages.ts";
import { PAGE_BYTES, PageIndex } from "./page-index.ts";

const at = (page: number): number => page * PAGE_BYTES;
const RUNS = [
  { address: at(10), pages: 4 },
  { address: at(20), pages: 3 },
];
const imageOf = (runs: readonly { address: number; pages: number }[], follow: boolean): ImagePages => {
  const index = new PageIndex();
  index.add({ folder: ".", pagesId: 1, runs });
  return new ImagePages(index, runs, follow);
};

describe("pages that follow", () => {
  test("are absent until they come, and then where the image has room for them", () => {
    const image = imageOf(RUNS, true);
    expect([...image.absent()]).toEqual(RUNS);
    expect(image.present(0, 7)).toBeUndefined();
    expect([...image.arrive(at(12), 2)]).toEqual([]);
    expect(image.arrivals).toBe(1);
    expect([...image.absent()]).toEqual([
      { address: at(10), pages: 2 },
      { address: at(20), pages: 3 },
    ]);
    expect(image.present(0, 7)).toEqual({ skipped: 2, pages: 2 });
    expect(image.present(0, 2)).toBeUndefined();
    expect(image.present(3, 4)).toEqual({ skipped: 0, pages: 1 });
    expect([image.isPresent(2), image.isPresent(4)]).toEqual([true, false]);
    expect(image.addressOf(4)).toBe(at(20));
    expect(image.addressOf(3)).toBe(at(13));
  });

  test("are given back at once when nobody lacks them any more", () => {
    const image = imageOf(RUNS, true);
    expect([...image.settle([{ start: at(20), end: at(21), page: 4 }])]).toHaveLength(1);
    expect([...image.absent()]).toEqual([
      { address: at(10), pages: 4 },
      { address: at(21), pages: 2 },
    ]);
    expect([...image.arrive(at(20), 2)]).toEqual([
      { file: "./pages-1.img", offset: at(4), bytes: PAGE_BYTES },
    ]);
  });

  test("that the image has not are nobody's", () => {
    const image = imageOf(RUNS, true);
    expect(() => [...image.arrive(at(14), 1)]).toThrow(/has not/);
    expect(() => [...image.arrive(at(9), 1)]).toThrow(/has not/);
  });
});

test("an image that is whole has all of its pages", () => {
  const image = imageOf(RUNS, false);
  expect([...image.absent()]).toEqual([]);
  expect(image.present(1, 5)).toEqual({ skipped: 0, pages: 5 });
  expect(image.isPresent(6)).toBe(true);
});

test("what is present and what is absent are together what was missing, however it comes", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 39 }), { maxLength: 40 }), (pages) => {
      const image = imageOf([{ address: 0, pages: 40 }], true);
      const come = new Set(pages);
      for (const page of pages) for (const _ of image.arrive(at(page), 1)) throw new Error("it is lacking");
      const absent = [...image.absent()].flatMap(({ address, pages: count }) =>
        Array.from({ length: count }, (_, index) => address / PAGE_BYTES + index),
      );
      expect(absent).toEqual(Array.from({ length: 40 }, (_, page) => page).filter((page) => !come.has(page)));
      for (let page = 0; page < 40; page += 1) {
        const found = image.present(page, 40 - page);
        const first = [...come].filter((one) => one >= page).sort((a, b) => a - b)[0];
        expect(found?.skipped).toBe(first === undefined ? undefined : first - page);
      }
    }),
  );
});
