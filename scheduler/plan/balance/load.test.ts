import { expect, test } from "vitest";
import { Load, ObservedAllocation, Report } from "../../../proto/gen/godwit/v1/agent.ts";
import { AllocationState } from "../../../proto/gen/godwit/v1/log.ts";
import { DEFAULT_BALANCE } from "../../model/balance-settings.ts";
import { Drive, idOf } from "../../testing/drive.ts";
import { sampleNode } from "../../testing/sample.ts";
import { command } from "../command.ts";
import { NodePicture } from "../node-seen.ts";
import { LoadBook } from "./load.ts";

const MIB = 2 ** 20;
const HALF_LIFE_MS = 4_000;

interface Sight {
  readonly number: number;
  readonly usec: number;
  readonly memoryMib?: number;
  readonly state?: AllocationState;
}

class Scene {
  readonly drive = new Drive("n1", "n2");
  readonly book = new LoadBook();
  readonly #pictures = new Map<string, NodePicture>();

  constructor() {
    this.drive.must(command("balanceSet", { settings: { ...DEFAULT_BALANCE, smoothingMs: HALF_LIFE_MS } }));
    this.drive.run(1, "web", "n1");
  }

  /** `heardMs` is when the leader reads it, `clockMs` when the agent measured. */
  report(node: string, clockMs: number, sights: readonly Sight[], heardMs = clockMs): void {
    const allocations = sights.map(({ memoryMib = 10, number, state, usec }) =>
      ObservedAllocation.fromPartial({
        containerId: idOf(number),
        epoch: this.drive.container(number).allocation?.epoch ?? 0,
        state: state ?? AllocationState.RUNNING,
        cpuUsageUsec: usec,
        memoryBytes: memoryMib * MIB,
      }),
    );
    const load = Load.fromPartial({ measuredAtMs: clockMs });
    const report = Report.fromPartial({ info: sampleNode(node), allocations, load });
    const picture = this.#pictures.get(node) ?? new NodePicture();
    this.#pictures.set(node, picture);
    const news = { info: report.info, load, ...picture.take(report, true) };
    this.book.accept(this.drive.cluster, node, news, heardMs);
  }
  /** A report a second, the counter going up by `millis` of a core. */
  feed(node: string, fromMs: number, seconds: number, millis: number, startUsec = 0): number {
    let usec = startUsec;
    for (let second = 0; second <= seconds; second += 1) {
      this.report(node, fromMs + second * 1_000, [{ number: 1, usec }]);
      usec += millis * 1_000;
    }
    return usec - millis * 1_000;
  }
  get cpu(): number {
    return this.book.container(idOf(1))?.cpuMillis ?? -1;
  }
  nodeCpu(name: string): number {
    return this.book.node(name)?.cpuMillis ?? -1;
  }
  move(to: string): void {
    this.drive.startMove(7, 1, to);
    this.drive.must(command("migrationSwitched", { id: idOf(7) }));
  }
}

test("a steady use is known at once, and a change after half-lives", () => {
  const scene = new Scene();
  const usec = scene.feed("n1", 1_000, 3, 500);
  expect(scene.cpu).toBeCloseTo(500, 5);
  expect(scene.nodeCpu("n1")).toBeCloseTo(500, 5);
  const later = scene.feed("n1", 5_000, 0, 0, usec + 500_000);
  scene.feed("n1", 5_000, 20, 1_500, later);
  expect(scene.cpu).toBeGreaterThan(1_400);
  expect(scene.cpu).toBeLessThan(1_500);
});

test("the first report of all says nothing about CPU", () => {
  const scene = new Scene();
  scene.report("n1", 1_000, [{ number: 1, usec: 9e12 }]);
  expect(scene.book.container(idOf(1))).toMatchObject({ cpuMillis: 0, watchedMs: 0, memoryBytes: 10 * MIB });
});

test("a counter that begins anew is no negative use, and no huge one", () => {
  const scene = new Scene();
  scene.feed("n1", 1_000, 10, 500, 80_000_000);
  scene.report("n1", 12_000, [{ number: 1, usec: 100 }]);
  expect(scene.cpu).toBeCloseTo(500, 5);
  scene.feed("n1", 13_000, 5, 500, 600_000);
  expect(scene.cpu).toBeGreaterThan(400);
});

test("a move takes the container's load along, although its counter begins anew at the target", () => {
  const scene = new Scene();
  scene.report("n2", 1_000, []);
  scene.feed("n1", 1_000, 10, 600);
  scene.move("n2");
  // The source still lists the frozen copy, the target what it has just started.
  scene.report("n1", 12_000, [{ number: 1, usec: 6_000_000 }]);
  expect([scene.nodeCpu("n1"), scene.nodeCpu("n2")]).toEqual([0, expect.closeTo(600, 3)]);
  scene.report("n2", 12_500, [{ number: 1, usec: 1_000 }]);
  expect([scene.nodeCpu("n1"), scene.nodeCpu("n2")]).toEqual([0, expect.closeTo(600, 3)]);
  expect(scene.book.container(idOf(1))).toMatchObject({ node: "n2", watchedHereMs: 0 });
  scene.drive.must(command("migrationFinished", { id: idOf(7), figures: undefined }));
  scene.report("n1", 13_000, []);
  for (let second = 1; second <= 8; second += 1)
    scene.report("n2", 12_500 + second * 1_000, [{ number: 1, usec: 1_000 + second * 600_000 }]);
  expect(scene.nodeCpu("n2")).toBeCloseTo(600, 0);
  expect(scene.book.container(idOf(1))?.watchedHereMs).toBe(8_000);
});

test("what happens while it is moved is not taken for its use", () => {
  const scene = new Scene();
  const usec = scene.feed("n1", 1_000, 10, 600);
  scene.drive.startMove(7, 1, "n2");
  for (let second = 1; second <= 10; second += 1)
    scene.report("n1", 11_000 + second * 1_000, [{ number: 1, usec }]);
  expect(scene.cpu).toBeCloseTo(600, 3);
});

test("after reports that were lost, the mean over the time that they are missing for", () => {
  const scene = new Scene();
  const usec = scene.feed("n1", 1_000, 10, 600);
  scene.report("n1", 71_000, [{ number: 1, usec: usec + 60 * 600_000 }]);
  expect(scene.cpu).toBeCloseTo(600, 3);
});

test("reports that were read late, all at once, are told apart by the agent's clock", () => {
  const scene = new Scene();
  const usec = scene.feed("n1", 1_000, 10, 600);
  for (let second = 1; second <= 30; second += 1)
    scene.report("n1", 11_000 + second * 1_000, [{ number: 1, usec: usec + second * 600_000 }], 50_000);
  expect(scene.cpu).toBeCloseTo(600, 3);
});

test("a host that was started anew, and values that are none", () => {
  const scene = new Scene();
  scene.feed("n1", 900_000, 10, 600);
  scene.report("n1", 5_000, [{ number: 1, usec: 10 }], 915_000);
  expect(scene.cpu).toBeCloseTo(600, 3);
  scene.report("n1", 6_000, [{ number: 1, usec: Number.NaN, memoryMib: -5 }], 916_000);
  scene.report("n1", Number.NaN, [{ number: 1, usec: 9e15 }], 917_000);
  const { cpuMillis = -1, memoryBytes = -1 } = scene.book.container(idOf(1)) ?? {};
  expect(cpuMillis).toBeGreaterThanOrEqual(0);
  // Nobody uses more than the node has.
  expect(cpuMillis).toBeLessThanOrEqual(4_000 * 1.05);
  expect(memoryBytes).toBeGreaterThanOrEqual(0);
});

test("what ended uses nothing, what is gone is forgotten, and a silent node is known as one", () => {
  const scene = new Scene();
  const usec = scene.feed("n1", 1_000, 10, 600);
  expect(scene.book.isSilent("n1", 12_000)).toBe(false);
  expect(scene.book.isSilent("n1", 60_000)).toBe(true);
  expect(scene.book.isSilent("n9", 0)).toBe(true);
  scene.report("n1", 12_000, [{ number: 1, usec, state: AllocationState.EXITED }]);
  expect([scene.cpu, scene.nodeCpu("n1")]).toEqual([0, 0]);
  scene.report("n1", 13_000, []);
  expect(scene.book.container(idOf(1))).toBeUndefined();
  scene.drive.must(command("nodeStateChanged", { node: "n2", state: "NODE_STATE_LOST", reason: "" }));
  scene.report("n2", 13_000, []);
  scene.drive.must(command("nodeRemoved", { node: "n2" }));
  scene.book.forget(scene.drive.cluster);
  expect(scene.book.node("n2")).toBeUndefined();
});
