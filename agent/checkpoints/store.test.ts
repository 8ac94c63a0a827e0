import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { NatsConnection } from "@nats-io/transport-node";
import { pino } from "pino";
import { afterAll, expect, test } from "vitest";

import type { StreamIdentity } from "../stream/identity.ts";
import { CheckpointStore } from "./store.ts";

const folder = mkdtempSync(join(tmpdir(), "gw-store-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Nothing comes to it, and nothing is sent. */
const open = (): Promise<CheckpointStore> =>
  CheckpointStore.open({
    folder,
    node: "n1",
    identity: {} as StreamIdentity,
    connection: {} as NatsConnection,
    logger: pino({ level: "silent" }),
    changed: () => undefined,
  });
const [taken, kept] = ["0000000000000001", "0000000000000002"];

test("one that an earlier agent had begun is known as cut off for as long as it is ordered, and leaves nothing", async () => {
  {
    await using store = await open();
    writeFileSync(store.spoolPath(taken), "half of it");
    expect(store.wasCutOff(taken)).toBe(false);
  }
  // Each of them may have ended before the leader heard of it.
  for (const _agent of [1, 2]) {
    await using store = await open();
    expect(store.wasCutOff(taken)).toBe(true);
    expect(statSync(store.spoolPath(taken)).size).toBe(0);
  }
  {
    await using store = await open();
    store.forgetCutOff((id) => id === taken);
    expect(store.wasCutOff(taken)).toBe(true);
    store.forgetCutOff(() => false);
    expect(store.wasCutOff(taken)).toBe(false);
    expect(readdirSync(folder)).toEqual([]);
    // Also of one that has been sent.
    writeFileSync(store.spoolPath(taken), "all of it");
    store.emptySpool(taken);
    expect(statSync(store.spoolPath(taken)).size).toBe(0);
  }
  await using store = await open();
  expect(store.wasCutOff(taken)).toBe(true);
  writeFileSync(store.spoolPath(taken), "");
  store.removeSpool(taken);
  store.removeSpool(taken);
  store.emptySpool(taken);
  expect(readdirSync(folder)).toEqual([]);
});

test("what is whole outlives its agent, and what is not wanted any more is deleted", async () => {
  writeFileSync(join(folder, `${kept}.checkpoint`), "sealed");
  writeFileSync(join(folder, `${kept}.part`), "half");
  await using store = await open();
  expect(readdirSync(folder)).toEqual([`${kept}.checkpoint`]);
  expect(store.path(kept)).toBe(join(folder, `${kept}.checkpoint`));
  expect(store.path(taken)).toBeUndefined();
  store.follow([]);
  expect(store.path(kept)).toBeUndefined();
  expect(existsSync(join(folder, `${kept}.checkpoint`))).toBe(false);
});
