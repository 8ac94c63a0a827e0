import { expect, test } from "vitest";
import { Allocation } from "../gen/godwit/v1/log.ts";
import { encoded, encodedField } from "./encoded.ts";

const one = Allocation.fromPartial({ node: "n1", epoch: 7, message: "x".repeat(300) });

test("a message is encoded as by a writer of its own, whatever was encoded before", () => {
  const first = encoded(Allocation, one);
  encoded(Allocation, { ...one, node: "n2", message: "y".repeat(500) });
  expect(Buffer.compare(first, Allocation.encode(one).finish())).toBe(0);
  expect(Allocation.decode(first)).toEqual(one);
});

test("one that cannot be encoded leaves nothing behind", () => {
  expect(() => encoded(Allocation, { ...one, exitCode: 0.5 })).toThrow(/int/);
  expect(Allocation.decode(encoded(Allocation, one))).toEqual(one);
});

test("a field is its tag, its length and its bytes", () => {
  expect([...encodedField((3 << 3) | 2, Uint8Array.of(1, 2))]).toEqual([26, 2, 1, 2]);
});
