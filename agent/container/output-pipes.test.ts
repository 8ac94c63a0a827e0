import { closeSync, fstatSync, readdirSync } from "node:fs";

import { expect, test } from "vitest";

import { OutputPipes } from "./output-pipes.ts";

const openPipes = (): number =>
  readdirSync("/proc/self/fd").filter((name) => {
    try {
      return fstatSync(Number(name)).isFIFO();
    } catch {
      return false; // what the folder itself was read with
    }
  }).length;

test("of a container that never began nothing stays open, of one that did its reading ends", () => {
  const before = openPipes();
  {
    using _ = new OutputPipes();
    expect(openPipes()).toBe(before + 4);
  }
  expect(openPipes()).toBe(before);
  let readers: readonly number[];
  {
    using pipes = new OutputPipes();
    readers = pipes.takeReaders();
    expect(() => pipes.takeReaders()).toThrow(TypeError);
  }
  expect(openPipes()).toBe(before + 2);
  for (const descriptor of readers) closeSync(descriptor);
});
