import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { markResumption, mayHaveResumed } from "./resumption.ts";

let images: string;
beforeEach(() => (images = mkdtempSync(join(tmpdir(), "godwit-resumption-"))));
afterEach(() => rmSync(images, { recursive: true }));

const NOBODY = (): number[] => [];
const log = (...lines: string[]): void => writeFileSync(`${images}/restore.log`, `${lines.join("\n")}\n`);

test("a restore that never began has resumed nothing", async () => {
  expect(await mayHaveResumed(images, NOBODY)).toBe(false);
});

test("a CRIU that ended because its agent was gone before the restored tasks were let go", async () => {
  // As CRIU 4.2.1 writes it at the log level that is asked for.
  log(
    "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted",
    "Error (criu/action-scripts.c:156): One of more action scripts failed",
    "Error (criu/cr-restore.c:2189): Aborting restore due to post-restore script ret code -1",
  );
  expect(await mayHaveResumed(images, NOBODY)).toBe(false);
});

test("a CRIU that got no answer before it resumed them, and went on", async () => {
  log(
    "Error (criu/action-scripts.c:156): One of more action scripts failed",
    "Error (criu/cr-restore.c:2278): Pre-resume script ret code -1",
  );
  expect(await mayHaveResumed(images, NOBODY)).toBe(true);
});

test("an agent that died after it had let CRIU resume them", async () => {
  log();
  markResumption(images);
  expect(await mayHaveResumed(images, NOBODY)).toBe(true);
});
