import { rmdir } from "node:fs/promises";

import { afterEach, expect, test } from "vitest";

import { findProgram } from "../config.ts";
import { CgroupTree } from "../container/cgroup.ts";
import { CriuSession } from "./criu-session.ts";

const tree = CgroupTree.detect();
const cgroup = tree.container(`godwit-test-criu-session-${process.pid}`);

afterEach(async () => {
  if (!cgroup.exists()) return;
  await cgroup.killAll();
  await rmdir(cgroup.freezerPath);
});

test("a session whose container is frozen ends, and leaves the rest of the container as it stands", async () => {
  cgroup.createFreezer();
  const options = {
    criuPath: findProgram("criu"),
    cgroupProcs: [`${cgroup.freezerPath}/cgroup.procs`],
    killedIn: tree.ownFreezerProcs,
  };
  await using other = await CriuSession.start(options);
  const session = await CriuSession.start(options);
  await cgroup.freeze(AbortSignal.timeout(5_000));
  await session[Symbol.asyncDispose]();
  expect(cgroup.processes()).toEqual([other.pid]);
  expect(cgroup.isFrozen()).toBe(true);
  cgroup.thaw();
});
