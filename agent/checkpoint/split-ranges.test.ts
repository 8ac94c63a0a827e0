import { expect, test } from "vitest";

import { splitByRanges } from "./split-ranges.ts";

const at = (page: number): number => page * 4096;

test.each<[string, [number, number][], [number, number, boolean][]]>([
  ["no ranges", [], [[10, 10, false]]],
  [
    "ranges elsewhere",
    [
      [1, 10],
      [20, 30],
    ],
    [[10, 10, false]],
  ],
  ["one around it", [[5, 50]], [[10, 10, true]]],
  [
    "one within",
    [[12, 15]],
    [
      [10, 2, false],
      [12, 3, true],
      [15, 5, false],
    ],
  ],
  [
    "several, the last beyond its end",
    [
      [2, 3],
      [8, 12],
      [12, 13],
      [18, 40],
    ],
    [
      [10, 2, true],
      [12, 1, true],
      [13, 5, false],
      [18, 2, true],
    ],
  ],
])("%s", (_, ranges, expected) => {
  const found = [
    ...splitByRanges(
      { address: at(10), pages: 10 },
      ranges.map(([start, end]) => ({ start: at(start), end: at(end) })),
    ),
  ];
  expect(found).toEqual(expected.map(([page, pages, inside]) => ({ address: at(page), pages, inside })));
});
