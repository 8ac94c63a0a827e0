import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { until } from "../e2e/cluster.ts";
import { notePoints, passedPoints } from "./hold.ts";
import { keepLogs } from "./kept-logs.ts";
import { Laboratory } from "./laboratory.ts";
import { type Point, POINTS } from "./points.ts";
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
  "target, before status running: kill agent",
  "target, before criu pre-resume: kill agent",
  "target, after status restoring:given-up: kill agent",
  "source, after status halted:maybe: kill agent",
  "target, after status starting: kill agent",
  "scheduler, after entry migrationSwitched: kill scheduler",
  "reorder chunks",
  "target's disk is full",
  "kill filler after the switch",
];

/** What a move of that mode that nobody disturbs has to come to; the others are seen by their rows alone. */
const pointsOf = (mode: MigrationMode): readonly Point[] =>
  POINTS.filter(
    ({ cold = false, onAbort = false, onLoss = false, onSpoilt = false, postcopy = false }) =>
      !onAbort &&
      !onLoss &&
      !onSpoilt &&
      cold === (mode === MigrationMode.COLD) &&
      postcopy === (mode === MigrationMode.POSTCOPY),
  );
const MODES = [MigrationMode.AUTO, MigrationMode.POSTCOPY, MigrationMode.COLD];

describe("rows of the fault matrix", () => {
  let laboratory: Laboratory;
  beforeAll(async () => {
    laboratory = await Laboratory.open();
  });
  afterAll(async () => {
    await laboratory[Symbol.asyncDispose]();
  });

  test.each(MODES)("a move (%s) comes to each of its points", async (mode) => {
    const { source, target } = await laboratory.ready();
    const folderOf = ({ side }: Point): string =>
      laboratory.holdFolder(side === "source" ? source : side === "target" ? target : side);
    const points = pointsOf(mode);
    expect(points.length).toBeGreaterThan(0);
    for (const point of points) notePoints(folderOf(point));
    const { state } = await laboratory.ended(await laboratory.startMove(target, mode));
    expect(state).toBe("finished");
    const lacking = (): string[] =>
      points.flatMap((point) => {
        const passed = passedPoints(folderOf(point));
        return (["before", "after"] as const)
          .map((when) => `${when} ${point.name}`)
          .filter((one) => !passed.includes(one));
      });
    await until("all of them to be passed", () => lacking().length === 0).catch(() => undefined);
    expect(lacking()).toEqual([]);
    // A cold move has closed its client's connection.
    await laboratory.discard();
  });

  test.each(CHOSEN)("%s", async (name) => {
    const row = ROWS.find((candidate) => rowName(candidate) === name);
    if (row === undefined) throw new Error("there is no such row");
    const result = await runRow(laboratory, row);
    if (result.outcome === "wrong") {
      process.stdout.write(`its logs: ${keepLogs(laboratory.cluster, result.row)}\n`);
      // A container that something is wrong with must not spoil the rows to come.
      await laboratory.discard();
    }
    expect(`${result.outcome}: ${result.words}`).toMatch(/^(moved|stayed|ended): /);
  });
});
