import { expect, test } from "vitest";
import { MigrationPhase, Report } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";
import { command } from "../plan/command.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { sampleNode } from "../testing/sample.ts";
import { Reports } from "./reports.ts";

const report = (node: string, rest: object): Report =>
  Report.fromPartial({ info: sampleNode(node), incarnation: node, ...rest });

test("a lease ends after the last report, and not while the leader may not have heard", () => {
  const { cluster } = new Drive("n1");
  const reports = new Reports(1_000, 10_000);
  expect(reports.leaseUntilMs("n1")).toBe(11_000);
  cluster.altered.clear();
  reports.accept(cluster, "n1", report("n1", {}), true, 10_500);
  expect(reports.leaseUntilMs("n1")).toBe(11_500);
  // What it reports may make it another choice for containers.
  expect([...cluster.altered]).toEqual(["n1"]);
  reports.grace(20_000);
  expect(reports.leaseUntilMs("n1")).toBe(21_000);
  expect(reports.lastReportMs("n1")).toBe(10_500);
});

test("the source is told whenever the target gets on, be it in the migration or with the container itself", () => {
  const drive = new Drive("n1", "n2");
  drive.run(1, "web", "n1");
  drive.startMove(7, 1, "n2");
  const reports = new Reports(1_000, 0);
  const touchedBy = (rest: object): boolean => {
    drive.cluster.touched.clear();
    reports.accept(drive.cluster, "n2", report("n2", rest), true, 1);
    return drive.cluster.touched.has("n1");
  };
  const phase = (now: MigrationPhase): object => ({ migrations: [{ id: idOf(7), phase: now }] });
  const allocation = (state: AllocationState): object => ({
    allocations: [{ containerId: idOf(1), epoch: 2, state }],
  });
  expect(touchedBy(phase(MigrationPhase.READY))).toBe(true);
  expect(touchedBy(phase(MigrationPhase.READY))).toBe(false);
  drive.must(command("migrationSwitched", { id: idOf(7) }));
  expect(touchedBy(phase(MigrationPhase.FAILED))).toBe(true);
  const failed = { ...phase(MigrationPhase.FAILED), ...allocation(AllocationState.FAILED) };
  expect(touchedBy(failed)).toBe(true);
  expect(touchedBy(failed)).toBe(false);
});

test("the source is told when the target's fence closes or opens: it waits for what stands still there", () => {
  const drive = new Drive("n1", "n2", "n3");
  drive.run(1, "web", "n1");
  drive.startMove(7, 1, "n2");
  drive.must(command("migrationSwitched", { id: idOf(7) }));
  const reports = new Reports(1_000, 0);
  const isNews = (node: string, fenceClosed: boolean): boolean => {
    drive.cluster.touched.clear();
    const told = report(node, { base: 1, session: 1, number: 2, fenceClosed });
    return reports.accept(drive.cluster, node, told, true, 1);
  };
  const touched = (): boolean => drive.cluster.touched.has("n1");
  expect([isNews("n2", true), touched()]).toEqual([true, true]);
  expect([isNews("n2", true), touched()]).toEqual([false, false]);
  expect([isNews("n2", false), touched()]).toEqual([true, true]);
  expect([isNews("n3", true), touched()]).toEqual([true, false]);
});

test("only the two nodes of a running migration are listened to, and ended ones are forgotten", () => {
  const drive = new Drive("n1", "n2", "n3");
  drive.run(1, "web", "n1");
  drive.startMove(7, 1, "n2");
  const reports = new Reports(1_000, 0);
  const tell = (node: string, id: string): void => {
    const told = report(node, { migrations: [{ id, phase: MigrationPhase.READY }] });
    reports.accept(drive.cluster, node, told, true, 1);
  };
  tell("n3", idOf(7));
  tell("n2", idOf(8));
  expect(reports.migrations.size).toBe(0);
  tell("n2", idOf(7));
  tell("n1", idOf(7));
  expect(reports.migrations.get(idOf(7))).toMatchObject({
    source: { id: idOf(7) },
    target: { id: idOf(7) },
    copy: true,
  });
  drive.must(command("migrationAborted", { id: idOf(7), reason: "" }));
  reports.forget(drive.cluster);
  expect(reports.migrations.size).toBe(0);
  tell("n2", idOf(7));
  expect(reports.migrations.size).toBe(0);
});
