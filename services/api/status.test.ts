import { status } from "@grpc/grpc-js";
import { expect, test } from "vitest";
import { ERROR_CODES, GodwitError } from "../../proto/contract/error.ts";
import { oneLine, statusOf } from "./status.ts";

test("every code has a status of its own", () => {
  const seen = ERROR_CODES.map((code) => statusOf(new GodwitError(code, "m")).code);
  expect(new Set(seen).size).toBe(ERROR_CODES.length);
  expect(seen).not.toContain(status.OK);
  expect(statusOf(new GodwitError("refused", "no room")).code).toBe(status.FAILED_PRECONDITION);
});

test("messages are one bounded line", () => {
  expect(oneLine("a\n  b\r\nc ")).toBe("a b c");
  expect(oneLine("x".repeat(10_000)).length).toBeLessThan(3_000);
});
