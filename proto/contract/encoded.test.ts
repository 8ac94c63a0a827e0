import { expect, test } from "vitest";
import { Allocation } from "../gen/godwit/v1/log.ts";
import { encoded } from "./encoded.ts";

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

test("what is encoded already becomes a field behind the others, or fields as they stand", () => {
  const node = { tag: (1 << 3) | 2, bytes: Buffer.from("n2") };
  const fields = { bytes: Allocation.encode(Allocation.fromPartial({ restarts: 3 })).finish() };
  const bytes = encoded(Allocation, one, [node, fields]);
  expect(Allocation.decode(bytes)).toEqual({ ...one, node: "n2", restarts: 3 });
  expect(Allocation.decode(encoded(Allocation, one))).toEqual(one);
});
