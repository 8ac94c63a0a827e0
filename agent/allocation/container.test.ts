import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { pino } from "pino";
import { expect, onTestFinished, test } from "vitest";

import { DesiredAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import type { Host } from "../host.ts";
import { decodeRecord, type RecordStatus } from "../model/record.ts";
import { RecordedContainer } from "./container.ts";

const ID = "00000000000000aa";
const RUNNING: RecordStatus = { kind: "running", init: { pid: 7, startTicks: 8 }, startedAtMs: 9 };
const PAST = { restarts: 0, health: HealthState.UNSPECIFIED };

/** On a disk that takes nothing while the container's folder is not there. */
const made = (): {
  container: RecordedContainer;
  setDisk: (works: boolean) => void;
  written: () => RecordStatus | undefined;
  told: () => number;
} => {
  const stateDir = mkdtempSync(join(tmpdir(), "gw-record-"));
  onTestFinished(() => rmSync(stateDir, { recursive: true }));
  const folder = join(stateDir, "containers", ID);
  const path = join(folder, "record.json");
  let changes = 0;
  const host = {
    config: { stateDir, dataDir: stateDir, node: "n1" },
    logger: pino({ level: "silent" }),
    cgroups: { container: () => ({}) },
  } as unknown as Host;
  const container = new RecordedContainer(host, ID, () => void (changes += 1));
  container.begin(DesiredAllocation.fromPartial({ containerId: ID, epoch: 1 }), PAST);
  return {
    container,
    setDisk: (works) =>
      void (works ? mkdirSync(folder, { recursive: true }) : rmSync(folder, { recursive: true })),
    written: () => (existsSync(path) ? decodeRecord(readFileSync(path, "utf8")).status : undefined),
    told: () => changes,
  };
};

test("what is about to be done is remembered only when it is written", () => {
  const { container, setDisk, told, written } = made();
  expect(() => container.setStatus(RUNNING)).toThrow(/ENOENT/);
  expect([container.status?.kind, told()]).toEqual(["starting", 0]);
  setDisk(true);
  container.setStatus(RUNNING);
  expect([container.status, written(), told()]).toEqual([RUNNING, RUNNING, 1]);
  setDisk(false);
  expect(() => container.setStatus({ ...RUNNING, kind: "halted", migrationId: "m", sent: "no" })).toThrow(
    /ENOENT/,
  );
  expect(() => container.inherit(2)).toThrow(/ENOENT/);
  // It runs and is this host's, and nobody takes it for one that is being stopped.
  expect([container.status, container.record?.epoch, told()]).toEqual([RUNNING, 1, 1]);
});

test("what has become of it is remembered in any case, and written as soon as it can be", () => {
  const { container, setDisk, told, written } = made();
  container.found(RUNNING);
  container.setHealth(HealthState.UNHEALTHY);
  expect([container.status, container.record?.health, told()]).toEqual([RUNNING, HealthState.UNHEALTHY, 2]);
  container.catchUp();
  setDisk(true);
  expect(written()).toBeUndefined();
  container.catchUp();
  expect(written()).toEqual(RUNNING);
  // It is not written over and over.
  setDisk(false);
  setDisk(true);
  container.catchUp();
  expect(written()).toBeUndefined();
});

test("whoever waits until it is recorded waits for the disk, or gives up", async () => {
  const { container, setDisk, written } = made();
  await container.recorded(AbortSignal.timeout(1000));
  container.found(RUNNING);
  await expect(container.recorded(AbortSignal.timeout(10))).rejects.toThrow(/aborted/);
  const recorded = container.recorded(AbortSignal.timeout(10_000)).then(written);
  setDisk(true);
  container.catchUp();
  expect(await recorded).toEqual(RUNNING);
});

test("of what is forgotten nothing is written any more", () => {
  const { container, setDisk, written } = made();
  container.found(RUNNING);
  container.forget();
  setDisk(true);
  container.catchUp();
  expect([container.record, written()]).toEqual([undefined, undefined]);
});
