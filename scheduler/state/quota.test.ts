import { expect, test } from "vitest";
import { Project } from "../../proto/gen/godwit/v1/log.ts";
import { command } from "../plan/command.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { digestOf, memoryLimit, MIB, sampleSpec } from "../testing/sample.ts";
import type { Outcome } from "./rejection.ts";

const team = { project: "team" };
const limit = (drive: Drive, limits: Partial<Project>): Outcome =>
  drive.try(command("projectSet", { project: Project.fromPartial({ name: "team", ...limits }) }));
const create = (drive: Drive, number: number, rest: object): Outcome =>
  drive.try(
    command("containerCreated", {
      id: idOf(number),
      spec: sampleSpec(`c${number}`, { imageDigest: digestOf("a"), ...rest }),
    }),
  );

test("a project has what it was given, and others are not asked", () => {
  const drive = new Drive("n1");
  limit(drive, { memoryBytes: 300 * MIB, containers: 2 });
  expect(create(drive, 1, { ...team, ...memoryLimit(200) })).toBeUndefined();
  expect(create(drive, 2, { ...team, ...memoryLimit(200) })).toMatchObject({
    code: "exhausted",
    message: expect.stringMatching(/may have 300 MiB of memory and has given out 200 MiB/),
  });
  expect(create(drive, 3, team)).toMatchObject({
    code: "refused",
    message: expect.stringMatching(/give --memory/),
  });
  expect(create(drive, 4, { ...team, ...memoryLimit(100) })).toBeUndefined();
  expect(create(drive, 5, { ...team, ...memoryLimit(10) })?.message).toMatch(
    /may have 2 containers and has 2/,
  );
  expect(create(drive, 6, memoryLimit(900))).toBeUndefined();
  drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
  // What is being removed still takes its share.
  expect(create(drive, 7, { ...team, ...memoryLimit(100) })).toBeDefined();
  drive.must(command("containerRemoved", { id: idOf(1) }));
  expect(create(drive, 7, { ...team, ...memoryLimit(100) })).toBeUndefined();
  drive.must(command("projectRemoved", { name: "team" }));
  expect(create(drive, 8, team)).toBeUndefined();
});

test("what is no limit is refused", () => {
  const drive = new Drive("n1");
  expect(limit(drive, { memoryBytes: -1 })).toMatchObject({ code: "invalid" });
  expect(drive.try(command("projectSet", { project: Project.fromPartial({ name: "A b" }) }))).toMatchObject({
    code: "invalid",
  });
  expect(drive.try(command("projectRemoved", { name: "none" }))).toMatchObject({ code: "not-found" });
});
