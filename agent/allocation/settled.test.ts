import { expect, test } from "vitest";

import { MigrationPhase, MigrationReport } from "../../proto/gen/godwit/v1/agent.ts";
import type { RecordStatus } from "../model/record.ts";
import { endedReport } from "./settled.ts";

const running: RecordStatus = { kind: "running", init: { pid: 1, startTicks: 1 }, startedAtMs: 0 };
const report = (phase: MigrationPhase): MigrationReport => MigrationReport.fromPartial({ id: "m", phase });

test.each([
  [
    "fills as long as it runs and lacks memory",
    { ...running, following: { migrationId: "m", from: "n1" } },
    MigrationPhase.FILLING,
  ],
  ["wants nothing more when it was started anew", running, MigrationPhase.RUNNING],
  ["wants nothing more when its record is gone", undefined, MigrationPhase.RUNNING],
] as const)("a container %s", (_, status, told) => {
  expect(endedReport(report(MigrationPhase.FILLING), status).phase).toBe(told);
});

test("any other phase is told as it is", () => {
  expect(endedReport(report(MigrationPhase.RESTORED), running).phase).toBe(MigrationPhase.RESTORED);
});
