import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

import { groupPressure, parsePressure } from "./pressure.ts";

const MEMORY = `some avg10=1.50 avg60=0.75 avg300=0.10 total=4242
full avg10=0.20 avg60=0.00 avg300=0.00 total=17
`;

test("the kernel's lines", () => {
  expect(parsePressure(MEMORY, "some")).toEqual({ avg10: 1.5, avg60: 0.75, avg300: 0.1 });
  expect(parsePressure(MEMORY, "full")).toEqual({ avg10: 0.2, avg60: 0, avg300: 0 });
  expect(parsePressure("", "some")).toBeUndefined();
});

test("of a cgroup, and of a kernel that does not measure it", () => {
  const folder = mkdtempSync(join(tmpdir(), "godwit-psi-"));
  try {
    expect(groupPressure(folder)).toBeUndefined();
    writeFileSync(join(folder, "cpu.pressure"), "some avg10=12.00 avg60=3.00 avg300=1.00 total=1\n");
    writeFileSync(join(folder, "memory.pressure"), MEMORY);
    expect(groupPressure(folder)).toMatchObject({
      cpuSome: { avg10: 12 },
      memoryFull: { avg10: 0.2 },
      ioSome: undefined,
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
