import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { apiAddresses } from "./address.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-address-"));
  writeFileSync(join(folder, "api"), "unix:/from/file\n");
});
afterAll(() => rmSync(folder, { recursive: true }));

test("the flag, then the environment, then the file", () => {
  const file = join(folder, "api");
  expect(apiAddresses("unix:/flag", { GODWIT_API: "unix:/env" }, file)).toEqual([{ target: "unix:/flag" }]);
  expect(apiAddresses(undefined, { GODWIT_API: "/env" }, file)).toEqual([{ target: "unix:/env" }]);
  expect(apiAddresses(undefined, { GODWIT_API: "" }, file)).toEqual([{ target: "unix:/from/file" }]);
  expect(apiAddresses("unix:/a, /b,127.0.0.1:7400", {}).map(({ target }) => target)).toEqual([
    "unix:/a",
    "unix:/b",
    "127.0.0.1:7400",
  ]);
  expect(() => apiAddresses("unix:/a,", {})).toThrow("no address");
  expect(() => apiAddresses(undefined, {}, join(folder, "none"))).toThrow("godwit dev up");
});

test("other hosts are reached encrypted only", () => {
  const tls = { GODWIT_TLS_CA: "/ca", GODWIT_TLS_CERT: "/cert", GODWIT_TLS_KEY: "/key" };
  expect(apiAddresses("127.0.0.1:7400", {})).toEqual([{ target: "127.0.0.1:7400" }]);
  expect(() => apiAddresses("host.example:7400", {})).toThrow("GODWIT_TLS_CA");
  expect(apiAddresses("host.example:7400", tls)).toEqual([
    { target: "host.example:7400", tls: { ca: "/ca", cert: "/cert", key: "/key" } },
  ]);
  expect(() => apiAddresses("nonsense", {})).toThrow("no address");
});
