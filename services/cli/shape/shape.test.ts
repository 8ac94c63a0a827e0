import { expect, test } from "vitest";
import { ContainerInfo, DrainStatus, MigrationInfo, NodeSummary } from "../../../proto/gen/godwit/v1/api.ts";
import { MigrationMode, RestartPolicy } from "../../../proto/gen/godwit/v1/spec.ts";
import { containerDetail, containerRow } from "./container.ts";
import { migrationRow, migrationSummary } from "./migration.ts";
import { drainDocument } from "./drain.ts";
import { nodeRow } from "./node.ts";
import { modeWord, parseMode, parsePolicy, parseRestart, restartWord } from "./words.ts";

// Scripts rely on these names; a change here breaks them.
test("the documented JSON fields", () => {
  const info = ContainerInfo.fromPartial({
    id: "c1",
    spec: { name: "web", image: "redis", labels: { a: "b" } },
    state: "running",
    node: "n1",
    epoch: 2,
    address: "10.88.0.2/16",
  });
  expect(containerRow(info)).toMatchObject({
    name: "web",
    id: "c1",
    image: "redis",
    node: "n1",
    state: "running",
    address: "10.88.0.2",
    restarts: 0,
    epoch: 2,
    labels: { a: "b" },
  });
  expect(containerDetail(info)).toMatchObject({
    desired: "",
    spec: { restart: "always", migration: "live", limits: { cpus: 0 } },
  });
  const move = MigrationInfo.fromPartial({
    id: "m",
    container: "web",
    from: "n1",
    to: "n2",
    mode: MigrationMode.CHECKPOINT,
    state: "finished",
    figures: { blackoutMs: 87.1234, totalMs: 400, memoryBytes: 5, sentBytes: 3 },
  });
  expect(migrationRow(move)).toEqual({
    id: "m",
    container: "web",
    from: "n1",
    to: "n2",
    mode: "checkpoint",
    state: "finished",
    rounds: 0,
    blackoutMs: 87.123,
    totalMs: 400,
    memoryBytes: 5,
    sentBytes: 3,
    reusedBytes: 0,
    filesystemBytes: 0,
    error: null,
    errorCode: null,
    predicted: null,
  });
  expect(migrationSummary(move)).toBe(
    "web moved from n1 to n2 (checkpoint): blackout 87 ms, total 400 ms, memory 5 B, sent 3 B",
  );
  expect(Object.keys(nodeRow(NodeSummary.fromPartial({ name: "n1" })))).toEqual(
    expect.arrayContaining([
      "name",
      "state",
      "schedulable",
      "containers",
      "cpus",
      "memoryBytes",
      "load",
      "lease",
    ]),
  );
  const drain = drainDocument(
    DrainStatus.fromPartial({
      node: "n1",
      moved: [{ container: "web", to: "n2", migrationId: "m" }],
      totalMs: 12.6,
    }),
  );
  expect(drain).toMatchObject({
    node: "n1",
    moved: [{ container: "web", to: "n2", migration: "m" }],
    failed: [],
    remaining: [],
    totalMs: 13,
  });
});

test("words for enums, both ways", () => {
  for (const word of ["auto", "cold", "checkpoint", "precopy", "postcopy"])
    expect(modeWord(parseMode(word))).toBe(word);
  for (const word of ["always", "on-failure", "never"]) expect(restartWord(parseRestart(word))).toBe(word);
  expect(restartWord(RestartPolicy.UNSPECIFIED)).toBe("always");
  expect(() => parseMode("fast")).toThrow("known are auto, cold, checkpoint");
  expect(() => parsePolicy("constructor")).toThrow("no migration policy");
});
