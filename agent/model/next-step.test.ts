import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { DesiredAllocation, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { DesiredState } from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec, Image, MigrationMode, RestartPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { interruption, nextStep, type Step } from "./next-step.ts";
import type { ContainerRecord, RecordStatus } from "./record.ts";

const init = { pid: 100, startTicks: 7 };
const running: RecordStatus = { kind: "running", init, startedAtMs: 0 };
const frozen = (sent: "no" | "maybe" | "yes", migrationId = "m1"): RecordStatus => ({
  kind: "frozen",
  init,
  startedAtMs: 0,
  migrationId,
  sent,
});
const halted = (sent: "no" | "maybe" | "yes", migrationId = "m1"): RecordStatus => ({
  kind: "halted",
  init,
  startedAtMs: 0,
  migrationId,
  sent,
});
const restoring = (stage: "receiving" | "received" | "ran" | "given-up"): RecordStatus => ({
  kind: "restoring",
  migrationId: "m1",
  stage,
});
const stopped = (exitCode: number, more: Partial<RecordStatus & { kind: "stopped" }> = {}): RecordStatus => ({
  kind: "stopped",
  exitCode,
  failed: false,
  message: "",
  startAtMs: 0,
  ...more,
});

const record = (status: RecordStatus, more: Partial<ContainerRecord> = {}): ContainerRecord => ({
  containerId: "00000000000000aa",
  epoch: 1,
  spec: ContainerSpec.fromPartial({ name: "a", restart: RestartPolicy.ALWAYS }),
  image: Image.fromPartial({}),
  address: "10.88.0.2/16",
  mac: "02:00:00:00:00:01",
  restartGeneration: 0,
  restarts: 0,
  status,
  ...more,
});

const order = (
  role: Role,
  more: Parameters<typeof DesiredAllocation.fromPartial>[0] = {},
): DesiredAllocation =>
  DesiredAllocation.fromPartial({
    containerId: "00000000000000aa",
    epoch: 1,
    role,
    desired: DesiredState.RUNNING,
    ...more,
  });

const step = (
  desired: DesiredAllocation | undefined,
  status: RecordStatus | undefined,
  more: { record?: Partial<ContainerRecord>; failed?: string[]; nowMs?: number } = {},
): Step["kind"] =>
  nextStep(desired, {
    record: status === undefined ? undefined : record(status, more.record),
    failedMigrations: new Set(more.failed),
    nowMs: more.nowMs ?? 1_000,
  }).kind;

describe("nextStep", () => {
  const m1 = { migration: { id: "m1" } };
  const switched = { migration: { id: "m1", switched: true } };
  const copy = { migration: { id: "m1", copy: true } };
  const cold = { migration: { id: "m1", switched: true, mode: MigrationMode.COLD } };
  test.each<[string, Step["kind"], Step["kind"]]>([
    // A migration that was returned: the target keeps its hands off, the source takes its copy up under a new epoch.
    ["given up after the switch", step(order(Role.OWNER, switched), restoring("given-up")), "none"],
    ["given up, and released", step(undefined, restoring("given-up")), "remove"],
    ["returned", step(order(Role.OWNER, { epoch: 3, inheritsEpoch: 1 }), frozen("yes")), "inherit"],
    [
      "returned and taken up",
      step(order(Role.OWNER, { epoch: 3, inheritsEpoch: 1 }), frozen("yes"), { record: { epoch: 3 } }),
      "thaw",
    ],
    [
      "a copy of another epoch than the one that was returned",
      step(order(Role.OWNER, { epoch: 5, inheritsEpoch: 3 }), frozen("yes")),
      "remove",
    ],
    // An owner's life.
    ["absent and wanted", step(order(Role.OWNER), undefined), "start"],
    [
      "absent after the switch that gave it to this host",
      step(order(Role.OWNER, switched), undefined),
      "none",
    ],
    [
      "absent and to be stopped",
      step(order(Role.OWNER, { desired: DesiredState.STOPPED }), undefined),
      "none",
    ],
    ["running and wanted", step(order(Role.OWNER), running), "none"],
    [
      "running and to be stopped",
      step(order(Role.OWNER, { desired: DesiredState.STOPPED }), running),
      "stop",
    ],
    ["running and to be restarted", step(order(Role.OWNER, { restartGeneration: 1 }), running), "stop"],
    ["a start that was cut off", step(order(Role.OWNER), { kind: "starting" }), "start"],
    [
      "a start that was cut off since it is to be stopped",
      step(order(Role.OWNER, { desired: DesiredState.STOPPED }), { kind: "starting" }),
      "stop",
    ],
    ["ended and always restarted", step(order(Role.OWNER), stopped(0)), "start"],
    ["ended, but too early to restart", step(order(Role.OWNER), stopped(0, { startAtMs: 2_000 })), "wait"],
    [
      "ended, and the clock was set back",
      step(order(Role.OWNER), stopped(0, { startAtMs: 86_400_000 })),
      "start",
    ],
    [
      "ended well and restarted on failure only",
      step(order(Role.OWNER), stopped(0), {
        record: { spec: ContainerSpec.fromPartial({ restart: RestartPolicy.ON_FAILURE }) },
      }),
      "none",
    ],
    [
      "ended and never restarted, but started by hand",
      step(order(Role.OWNER, { restartGeneration: 1 }), stopped(1), {
        record: { spec: ContainerSpec.fromPartial({ restart: RestartPolicy.NEVER }) },
      }),
      "start",
    ],
    ["not wanted here at all", step(undefined, running), "remove"],
    ["not wanted and not here", step(undefined, undefined), "none"],
    ["left over from an older epoch", step(order(Role.OWNER, { epoch: 3 }), frozen("yes")), "remove"],
    ["an order older than what runs", step(order(Role.OWNER, { epoch: 0 }), running), "none"],
    // A source.
    ["source before the target is ready", step(order(Role.SOURCE, m1), running), "none"],
    ["source told to copy", step(order(Role.SOURCE, copy), running), "copy"],
    ["source that failed to copy", step(order(Role.SOURCE, copy), running, { failed: ["m1"] }), "none"],
    ["source that has sent everything", step(order(Role.SOURCE, copy), frozen("yes")), "none"],
    ["source that may have sent everything", step(order(Role.SOURCE, copy), frozen("maybe")), "none"],
    ["source whose agent died while dumping", step(order(Role.SOURCE, copy), frozen("no")), "thaw"],
    ["source frozen for another migration", step(order(Role.SOURCE, copy), frozen("yes", "m0")), "thaw"],
    [
      "source after the switch, until the target runs",
      step(order(Role.SOURCE, switched), frozen("no")),
      "none",
    ],
    ["source after an abort", step(order(Role.OWNER), frozen("yes")), "thaw"],
    ["source after the switch", step(order(Role.RELEASED, m1), frozen("yes")), "remove"],
    ["source with nothing left", step(order(Role.RELEASED, m1), undefined), "none"],
    // A target.
    ["target", step(order(Role.TARGET, m1), undefined), "receive"],
    ["target with something old", step(order(Role.TARGET, { ...m1, epoch: 4 }), frozen("yes")), "remove"],
    ["target that failed", step(order(Role.TARGET, m1), restoring("received"), { failed: ["m1"] }), "none"],
    ["target after an abort", step(undefined, restoring("received")), "remove"],
    [
      "target after the switch, restarted",
      step(order(Role.OWNER, switched), restoring("received")),
      "resume",
    ],
    // A cold move: nothing runs at the source, and nothing but files comes to the target.
    ["source that was stopped and cut off", step(order(Role.SOURCE, copy), halted("no")), "start"],
    ["source stopped for another migration", step(order(Role.SOURCE, copy), halted("yes", "m0")), "start"],
    ["source stopped, all may be sent", step(order(Role.SOURCE, copy), halted("maybe")), "none"],
    ["source stopped, after the switch", step(order(Role.SOURCE, switched), halted("yes")), "none"],
    ["source stopped, after an abort", step(order(Role.OWNER), halted("yes")), "start"],
    [
      "source stopped, after an abort, and not wanted",
      step(order(Role.OWNER, { desired: DesiredState.STOPPED }), halted("yes")),
      "stop",
    ],
    ["source stopped, and released", step(order(Role.RELEASED, m1), halted("yes")), "remove"],
    ["cold target after the switch", step(order(Role.OWNER, cold), restoring("received")), "start"],
    [
      "cold target after the switch, not wanted",
      step(order(Role.OWNER, { ...cold, desired: DesiredState.STOPPED }), restoring("received")),
      "stop",
    ],
    ["cold target without its files", step(order(Role.OWNER, cold), restoring("receiving")), "remove"],
    ["came here, and the disk never took that it ran", step(order(Role.OWNER), restoring("ran")), "start"],
    ["the same, and its host was off meanwhile", step(order(Role.OWNER), restoring("received")), "start"],
    [
      "the same, and it is to be stopped",
      step(order(Role.OWNER, { desired: DesiredState.STOPPED }), restoring("ran")),
      "stop",
    ],
    [
      "half restored from a checkpoint",
      step(order(Role.OWNER, { restore: { checkpointId: "c1" } }), restoring("ran")),
      "remove",
    ],
    ["target that never got the image", step(order(Role.OWNER, switched), restoring("receiving")), "remove"],
  ])("%s: %s", (_, actual, expected) => {
    expect(actual).toBe(expected);
  });

  test("a frozen copy whose image may be complete is never thawed but by an owner's order", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(Role.SOURCE, Role.TARGET, Role.RELEASED, Role.OWNER),
        fc.constantFrom("maybe" as const, "yes" as const),
        fc.boolean(),
        fc.boolean(),
        fc.integer({ min: 1, max: 3 }),
        (role, sent, copying, failed, epoch) => {
          const kind = step(order(role, { epoch, migration: { id: "m1", copy: copying } }), frozen(sent), {
            failed: failed ? ["m1"] : [],
          });
          if (kind === "thaw") expect([role, epoch]).toEqual([Role.OWNER, 1]);
          expect(kind).not.toBe("start");
        },
      ),
    );
  });
});

describe("interruption", () => {
  const receive: Step = { kind: "receive", migrationId: "m1" };
  test.each<[string, DesiredAllocation | undefined, string]>([
    ["still the target", order(Role.TARGET, { migration: { id: "m1" } }), "none"],
    ["the switch", order(Role.OWNER, { migration: { id: "m1", switched: true } }), "commit"],
    ["an abort", undefined, "abort"],
    ["another migration", order(Role.TARGET, { migration: { id: "m2" } }), "abort"],
  ])("of receiving: %s", (_, desired, expected) => {
    expect(interruption(receive, desired)).toBe(expected);
  });
});
