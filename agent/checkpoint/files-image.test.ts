import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { expect, test } from "vitest";

import { keepTimersGoing } from "./files-image.ts";

interface Timer {
  readonly left: readonly [number, number];
  readonly interval: readonly [number, number];
}

function timerEntry({ left, interval }: Timer): Uint8Array {
  const timer = new BinaryWriter();
  [3, 0o4000].forEach((value, index) => timer.tag(index + 1, 0).uint32(value));
  timer.tag(3, 2).bytes(new Uint8Array([8, 0]));
  [1, 5, 0, ...left, ...interval].forEach((value, index) => timer.tag(index + 4, 0).uint64(value));
  return new BinaryWriter()
    .tag(1, 0)
    .uint32(17)
    .tag(2, 0)
    .uint32(3)
    .tag(12, 2)
    .bytes(timer.finish())
    .finish();
}

function image(...entries: Uint8Array[]): Buffer {
  const words = (...values: number[]): Buffer => Buffer.from(new Uint32Array(values).buffer);
  return Buffer.concat([
    words(0x54564319, 0x56303138),
    ...entries.flatMap((entry) => [words(entry.byteLength), entry]),
  ]);
}

const other = new BinaryWriter().tag(1, 0).uint32(1).tag(3, 2).bytes(new Uint8Array(300)).finish();

test("a periodic timer with nothing left expires at once; all others stay as they are", () => {
  const expired: Timer = { left: [0, 0], interval: [0, 10_000_000] };
  const kept: Timer[] = [
    { left: [0, 5], interval: [0, 10_000_000] },
    { left: [4, 0], interval: [1, 0] },
    { left: [0, 0], interval: [0, 0] },
  ];
  const bytes = image(other, timerEntry(expired), ...kept.map(timerEntry), other, timerEntry(expired));
  expect(keepTimersGoing(bytes)).toBe(2);
  const awake: Timer = { ...expired, left: [0, 1] };
  expect(bytes).toEqual(image(other, timerEntry(awake), ...kept.map(timerEntry), other, timerEntry(awake)));
  expect(keepTimersGoing(bytes)).toBe(0);
});

test("what is no such image is left alone", () => {
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(7), Buffer.alloc(100, 1)]) {
    expect(keepTimersGoing(bytes)).toBe(0);
  }
});
