import { expect, test } from "vitest";
import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";
import { Blocker, MigrationPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { memoryLimit, sampleNode } from "../testing/sample.ts";
import { command } from "./command.ts";
import { viewDrain } from "./drain.ts";
import { blockersOf, chooseTarget, stayCheck, targetRefusals, UNSEEN, whyOf } from "./movable.ts";

const uring = Blocker.fromPartial({ kind: "io-uring", reason: "process 1 (x) uses io_uring: stop that" });
const watch = Blocker.fromPartial({ kind: "inotify", reason: "process 2 (y) watches files" });

const seenWith = (container: number, rest: { blockers?: Blocker[]; needs?: string[]; epoch?: number }) => {
  const seen = new FakeVolatile();
  seen.report("n1", [
    {
      containerId: idOf(container),
      epoch: 1,
      state: AllocationState.RUNNING,
      blockers: [],
      needs: [],
      ...rest,
    },
  ]);
  return seen;
};

test("what an agent has found keeps a container where it is, from moves and from drains", () => {
  const drive = new Drive("n1", "n2");
  const web = drive.run(1, "web", "n1");
  const seen = seenWith(1, { blockers: [uring, watch] });
  expect(stayCheck(drive.cluster, UNSEEN, web, false)).toBeUndefined();
  expect(stayCheck(drive.cluster, seen, web, false)).toEqual({
    code: "refused",
    message: "web cannot be moved now: process 1 (x) uses io_uring: stop that (and 1 more: godwit why web)",
  });
  const drained = viewDrain(drive.cluster, seen, "n1", { nowMs: 0 });
  expect(drained.failed[0]?.reason).toMatch(/uses io_uring/);
  expect(drained.departures).toEqual([]);
  const why = whyOf(drive.cluster, seen, web);
  expect(why.staysBecause).toEqual([uring.reason, watch.reason]);
  expect(why.nodes).toMatchObject([{ node: "n2", canMove: false, reasons: [] }]);
});

test("what was seen of an earlier allocation counts no more", () => {
  const drive = new Drive("n1", "n2");
  const web = drive.run(1, "web", "n1");
  expect(blockersOf(seenWith(1, { blockers: [uring], epoch: 0 }), web)).toEqual([]);
  expect(blockersOf(seenWith(1, { blockers: [uring] }), web)).toEqual([uring]);
});

test("a node is refused, and not chosen, where the container could not go on", () => {
  const drive = new Drive();
  const join = (name: string, rest: Parameters<typeof sampleNode>[1]) =>
    drive.must(command("nodeJoined", { info: sampleNode(name, rest), incarnation: `i-${name}` }));
  join("n1", { cpuFlags: ["sse2", "avx2"], features: ["ipv6"] });
  join("n2", { cpuFlags: ["sse2"], features: ["ipv6"] });
  join("n3", { cpuFlags: ["sse2", "avx2"] });
  join("n4", { cpuFlags: ["sse2", "avx2", "avx512f"], features: ["ipv6"] });
  const web = drive.run(1, "web", "n1");
  const seen = seenWith(1, { needs: ["ipv6"] });
  const messages = (to: string) => targetRefusals(drive.cluster, seen, web, to).map(({ message }) => message);
  expect(messages("n2")).toEqual([expect.stringMatching(/CPU of node n2 lacks avx2/)]);
  expect(messages("n3")).toEqual([expect.stringMatching(/n3 has no IPv6/)]);
  expect(messages("n4")).toEqual([]);
  expect(messages("n9")).toEqual(["there is no node n9"]);
  expect(chooseTarget(drive.cluster, seen, web)).toEqual({ node: "n4" });
  drive.must(command("nodeSchedulableSet", { node: "n4", schedulable: false }));
  const { failure } = chooseTarget(drive.cluster, seen, web);
  expect(failure).toMatch(/no node fits: .*lacks avx2.*; .*has no IPv6.*, 1 of 3 cordoned/);
  // The log itself refuses what it can know of.
  expect(drive.startMove(7, 1, "n2")?.message).toMatch(/lacks avx2/);
});

test("all reasons of all nodes, and how it came to be where it is", () => {
  const drive = new Drive("n1", "n2", "n3");
  const web = drive.run(1, "web", "n1", {
    ...memoryLimit(600),
    node: "n1",
    migration: MigrationPolicy.NEVER,
  });
  drive.run(2, "big", "n2", memoryLimit(700));
  drive.must(command("nodeSchedulableSet", { node: "n2", schedulable: false }));
  const why = whyOf(drive.cluster, UNSEEN, web);
  expect(why.history).toEqual([{ atMs: 1_000, text: "placed on n1, as asked for with --node n1" }]);
  expect(why.staysBecause).toEqual(['web has the migration policy "never"']);
  expect(why.nodes).toMatchObject([
    {
      node: "n2",
      canMove: false,
      reasons: [expect.stringMatching(/cordoned/), expect.stringMatching(/lacks 600 MiB of memory/)],
    },
    { node: "n3", canMove: false, reasons: [] },
  ]);
});

test("moves and the failure after them", () => {
  const drive = new Drive("n1", "n2");
  const web = drive.run(1, "web", "n1");
  expect(drive.startMove(5, 1, "n2")).toBeUndefined();
  drive.atMs = 2_000;
  drive.must(command("migrationSwitched", { id: idOf(5) }));
  drive.must(command("migrationFinished", { id: idOf(5), figures: undefined }));
  drive.observe(1, AllocationState.RUNNING);
  drive.atMs = 3_000;
  expect(drive.startMove(6, 1, "n1")).toBeUndefined();
  drive.must(command("migrationAborted", { id: idOf(6), reason: "no luck" }));
  const why = whyOf(drive.cluster, UNSEEN, web);
  expect(why.history.map(({ text }) => text)).toEqual([
    "placed on n1, the least loaded node that it fitted on",
    "moved from n1 to n2 by an operator",
  ]);
  expect(why.lastMove?.id).toBe(idOf(5));
  expect(why.lastFailure).toMatchObject({ id: idOf(6), error: "no luck" });
  expect(why.nodes).toMatchObject([{ node: "n1", canMove: true, reasons: [] }]);
});
