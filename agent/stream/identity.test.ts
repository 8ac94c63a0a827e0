import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { generateIdentity, loadIdentity } from "./identity.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-identity-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const file = (): string => join(folder, "stream-key.pem");

test("made once, for root alone, and the same ever after", () => {
  const made = loadIdentity(folder);
  expect(made.publicKey.byteLength).toBe(32);
  expect(statSync(file()).mode & 0o777).toBe(0o600);
  expect(readdirSync(folder)).toEqual(["stream-key.pem"]);
  expect(loadIdentity(folder).publicKey).toEqual(made.publicKey);
  expect(generateIdentity().publicKey).not.toEqual(made.publicKey);
});

test("what a crash left of the making does no harm", () => {
  writeFileSync(`${file()}.new`, "half a k");
  expect(loadIdentity(folder).publicKey).toEqual(loadIdentity(folder).publicKey);
});

test("a key that others can read, or that is none, is refused with what to do", () => {
  loadIdentity(folder);
  chmodSync(file(), 0o640);
  expect(() => loadIdentity(folder)).toThrow(/chmod 600/);
  chmodSync(file(), 0o600);
  writeFileSync(file(), "no key");
  expect(() => loadIdentity(folder)).toThrow(/godwit node trust/);
});
