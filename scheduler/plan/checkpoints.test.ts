import { expect, test } from "vitest";

import { CheckpointPhase, type CheckpointReport } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { AllocationState, NodeState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { LONGEST_CHAIN } from "../state/checkpoint-chain.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { placeWithCheckpoint, planCheckpoints } from "./checkpoints.ts";
import { command } from "./command.ts";
import { desiredFor } from "./desired.ts";

const EVERY_MS = 10_000;
const FINISHED = { id: idOf(7), figures: undefined };
const NODES = ["n1", "n2", "n3", "n4"];

/** Container 1 runs on n1, and a checkpoint of it is taken every ten seconds. */
class Site {
  readonly drive = new Drive(...NODES);
  readonly volatile = new FakeVolatile();
  /** By node and checkpoint, what it says. */
  readonly #said = new Map<string, Map<string, Partial<CheckpointReport>>>();
  readonly #free = new Map<string, number>();
  #ids = 100;

  constructor() {
    this.drive.run(1, "web", "n1", { checkpointEverySeconds: EVERY_MS / 1_000 });
  }

  say(node: string, id: string, phase: CheckpointPhase, rest: Partial<CheckpointReport> = {}): void {
    const said = this.#said.get(node) ?? new Map<string, Partial<CheckpointReport>>();
    this.#said.set(node, said.set(id, { id, phase, ...rest }));
    this.#report(node);
  }

  /** From now on it has no more room than this. */
  fill(node: string, diskBytesFree: number): void {
    this.#free.set(node, diskBytesFree);
    this.#report(node);
  }

  #report(node: string): void {
    const checkpoints = [...(this.#said.get(node)?.values() ?? [])];
    const load = { diskBytesFree: this.#free.get(node) ?? 1e12 };
    this.volatile.report(node, [], true, { checkpoints, load });
  }

  plan(): Command["command"][] {
    const terms = {
      nowMs: this.drive.atMs,
      newId: () => idOf((this.#ids += 1)),
      newKey: () => new Uint8Array(32),
    };
    return planCheckpoints(this.drive.cluster, this.volatile, terms).map((one) => one.command);
  }

  /** The next one that is due. */
  begin(): { id: string; baseId: string; keepers: string[] } {
    this.drive.atMs += EVERY_MS;
    const [planned] = this.plan();
    if (planned?.$case !== "checkpointStarted") throw new Error(`${planned?.$case} instead of a checkpoint`);
    this.drive.must({ command: planned } as Command);
    return planned.value;
  }

  /** Taken and kept by all. */
  take(sizeBytes = 10): string {
    const { baseId, id, keepers } = this.begin();
    this.say("n1", id, CheckpointPhase.SENT, { sizeBytes, baseId, wholeBytes: 100 });
    for (const keeper of keepers) this.say(keeper, id, CheckpointPhase.STORED);
    const [planned] = this.plan();
    if (planned?.$case !== "checkpointStored") throw new Error(`${planned?.$case} instead of its end`);
    this.drive.must({ command: planned } as Command);
    return id;
  }
}

test("one builds upon the one before, for as long as its keepers have all of that", () => {
  const site = new Site();
  const first = site.take(100);
  const second = site.begin();
  expect(second).toMatchObject({ baseId: first, keepers: ["n2", "n3"] });
  expect(desiredFor(site.drive.cluster, site.volatile, "n1")?.allocations[0]?.checkpoint).toMatchObject({
    id: second.id,
    baseId: first,
  });
  expect(desiredFor(site.drive.cluster, site.volatile, "n2")?.keptCheckpoints.map(({ id }) => id)).toEqual(
    [first, second.id].toSorted(),
  );
});

test("none is begun of a container that is being removed, however long that takes", () => {
  const site = new Site();
  site.drive.atMs += EVERY_MS;
  expect(site.plan()).toMatchObject([{ $case: "checkpointStarted" }]);
  site.drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
  expect(site.plan()).toEqual([]);
});

test("what a keeper has lost ends what was to build upon it, and the next one holds everything", () => {
  const site = new Site();
  const first = site.take(100);
  const second = site.begin();
  site.say("n1", second.id, CheckpointPhase.SENT, { baseId: first });
  site.say("n2", second.id, CheckpointPhase.STORED);
  site.say("n3", second.id, CheckpointPhase.STORED);
  site.say("n3", first, CheckpointPhase.TAKING);
  const [failed] = site.plan();
  expect(failed).toMatchObject({
    $case: "checkpointFailed",
    value: { id: second.id, error: `n3 has lost checkpoint ${first}, which it was to build upon` },
  });
  site.drive.must({ command: failed } as Command);
  expect(site.begin().baseId).toBe("");
});

test("a source that knows nothing of the one before sends everything, and nothing of the old ones is kept", () => {
  const site = new Site();
  site.take(100);
  const { id } = site.begin();
  site.say("n1", id, CheckpointPhase.SENT, { sizeBytes: 90 });
  for (const keeper of ["n2", "n3"]) site.say(keeper, id, CheckpointPhase.STORED);
  for (const planned of site.plan()) site.drive.must({ command: planned } as Command);
  expect(Object.keys(site.drive.cluster.state.checkpoints)).toEqual([id]);
  // What it was not told to build upon its keepers may not have.
  const next = site.begin();
  site.say("n1", next.id, CheckpointPhase.SENT, { baseId: idOf(5) });
  expect(site.plan()).toMatchObject([{ $case: "checkpointFailed" }]);
});

test("a chain is neither too long nor too large, and does not outlive a keeper or a stay", () => {
  const long = new Site();
  long.take(1_000);
  for (let link = 1; link < LONGEST_CHAIN; link += 1) long.take(1);
  expect(long.begin().baseId).toBe("");

  const large = new Site();
  large.take(100);
  large.take(60);
  large.take(41);
  expect(large.begin().baseId).toBe("");

  const bereft = new Site();
  bereft.take(100);
  bereft.drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "" }));
  expect(bereft.begin()).toMatchObject({ baseId: "", keepers: ["n4", "n3"] });

  const moved = new Site();
  moved.take(100);
  moved.drive.startMove(7, 1, "n4");
  moved.drive.must(command("migrationSwitched", { id: idOf(7) }));
  moved.drive.must(command("migrationFinished", FINISHED));
  moved.drive.observe(1, AllocationState.RUNNING);
  expect(moved.begin().baseId).toBe("");
});

test("a full disk keeps nothing new where another has room", () => {
  const site = new Site();
  site.fill("n2", 50);
  // Nothing is known of how large it is.
  const first = site.take(80);
  site.fill("n2", 90);
  expect(site.begin()).toMatchObject({ baseId: first, keepers: ["n2", "n3"] });
  const other = new Site();
  other.take(80);
  other.fill("n3", 70);
  expect(other.begin()).toMatchObject({ baseId: "", keepers: ["n4", "n2"] });
  const everywhere = new Site();
  const only = everywhere.take(80);
  for (const node of NODES) everywhere.fill(node, 70);
  expect(everywhere.begin()).toMatchObject({ baseId: only, keepers: ["n2", "n3"] });
});

test("a container goes on where everything is that its checkpoint needs, from an older one if need be", () => {
  const site = new Site();
  const byHand = site.take(100);
  const stored = site.drive.cluster.state.checkpoints[byHand];
  if (stored !== undefined) stored.reason = "operator";
  const newest = site.take();
  const where = (): unknown =>
    placeWithCheckpoint(site.drive.cluster, site.drive.container(1), { seen: site.volatile });
  expect(where()).toEqual({ node: "n2", checkpointId: newest });
  site.say("n2", byHand, CheckpointPhase.FAILED);
  expect(where()).toEqual({ node: "n3", checkpointId: newest });
  site.say("n3", newest, CheckpointPhase.TAKING);
  expect(where()).toEqual({ node: "n3", checkpointId: byHand });
  const orders = (): unknown =>
    desiredFor(site.drive.cluster, site.volatile, "n3")?.allocations[0]?.restore?.base.map(({ id }) => id);
  site.drive.must(command("nodeFenceSet", { node: "n1", fenceMs: 15_000, fault: "" }));
  site.drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" }));
  site.drive.must(command("nodeFenced", { node: "n1" }));
  const placed = { containerId: idOf(1), node: "n3", epoch: 2, checkpointId: newest };
  site.drive.must(command("allocationPlaced", placed));
  expect(orders()).toEqual([byHand]);
});
