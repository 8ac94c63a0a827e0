import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { Laboratory } from "./laboratory.ts";
import { runRow } from "./run-row.ts";
import { rowName, ROWS } from "./rows.ts";

/** One of each kind, and those that once were wrong; `npm run test:faults` runs them all. */
const CHOSEN = [
  "target, after phase READY: cancel",
  "source, after status frozen:no: kill agent",
  "source, before phase FROZEN: kill criu",
  "source, after status frozen:maybe: kill criu",
  "source, after phase FROZEN: cut source|scheduler",
  "source, after phase DUMPED: kill nats",
  "target, before phase RESTORED: pause agent",
  "target, after status restoring:ran: kill agent",
  "target, before criu pre-resume: kill agent",
  "target, after status restoring:given-up: kill agent",
  "source, after status halted:maybe: kill agent",
  "target, after status starting: kill agent",
  "scheduler, after entry migrationSwitched: kill scheduler",
  "reorder chunks",
  "target's disk is full",
  "kill filler after the switch",
];

describe("rows of the fault matrix", () => {
  let laboratory: Laboratory;
  beforeAll(async () => {
    laboratory = await Laboratory.open();
  });
  afterAll(async () => {
    await laboratory[Symbol.asyncDispose]();
  });

  test.each(CHOSEN)("%s", async (name) => {
    const row = ROWS.find((candidate) => rowName(candidate) === name);
    if (row === undefined) throw new Error("there is no such row");
    const result = await runRow(laboratory, row);
    // A container that something is wrong with must not spoil the rows to come.
    if (result.outcome === "wrong") await laboratory.discard();
    expect(`${result.outcome}: ${result.words}`).toMatch(/^(moved|stayed|ended): /);
  });
});
