/** Forecasts, blackout budgets and the pace of a container that writes faster than the link takes. */
import { readFileSync } from "node:fs";

import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { MigrationInfo } from "../../proto/gen/godwit/v1/api.ts";
import { TestCluster, until } from "./cluster.ts";

const PYTHON_IMAGE = `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/images/python.tar`;
/** Writes one page of noise after the other, as fast as it gets CPU time; /tmp/pages says how many it has written. */
const WRITER = `
import os
PAGES = 40 * 256
memory = bytearray(os.urandom(4096) * PAGES)
written = 0
while True:
    at = written % PAGES * 4096
    # Most of the work is thrown away: some 30 MB a second are written at its full pace.
    for _ in range(12): noise = os.urandom(4096)
    memory[at:at + 4096] = noise
    written += 1
    if written % 500 == 0:
        with open("/tmp/pages.new", "w") as out: out.write(str(written))
        os.rename("/tmp/pages.new", "/tmp/pages")
`;

interface Predicted {
  readonly blackoutMs: number;
  readonly totalMs: number;
  readonly rounds: number;
  readonly memoryBytes: number;
  readonly sentBytes: number;
  readonly dirtyBytesPerSecond: number;
}
interface Move {
  readonly id: string;
  readonly state: string;
  readonly mode: string;
  readonly blackoutMs: number;
  readonly error: string | null;
  readonly errorCode: string | null;
  readonly predicted: Predicted | null;
}

let cluster: TestCluster;
let id: string;

beforeAll(async () => {
  cluster = await TestCluster.start(2);
  await cluster.must("image", "import", "python", PYTHON_IMAGE);
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await cluster.must(
    "run",
    "--node",
    "n1",
    "--cpus",
    "0.8",
    "writer",
    "python",
    "--",
    "python3",
    "-c",
    WRITER,
  );
  ({ id } = await cluster.container("writer"));
  await written(10_240);
});
afterEach(async () => {
  await cluster.must("rm", "-f", "writer");
});

/** Waits until so many pages more have been written. */
async function written(pages: number): Promise<void> {
  const now = async (): Promise<number> =>
    Number(await cluster.sh("writer", "cat /tmp/pages 2>/dev/null || echo 0"));
  const before = await now();
  await until(`${pages} more pages`, async () => (await now()) - before >= pages, 60_000);
}

/** Thousandths of a core that its cgroup allows it on that node. */
function cpuMillis(node: string): number {
  for (const folder of cluster.dev.node(node).cgroupDirs)
    for (const file of ["cpu.cfs_quota_us", "cpu.max"])
      try {
        const [quota] = readFileSync(`${folder}/godwit/${id}/${file}`, "utf8").split(" ");
        return Number(quota) / 100;
      } catch {
        continue; // another controller's
      }
  throw new Error(`no cpu limit of ${id} is found on ${node}`);
}

const isSlowed = (info: MigrationInfo): boolean => (info.copy?.cpuPercent ?? 100) < 100;

test("a dry run says what a move would cost, and moves nothing", async () => {
  const plan = await cluster.json<Move>("move", "writer", "n2", "--dry-run");
  expect(plan).toMatchObject({ id: "", state: "planned", mode: "precopy", error: null });
  expect(plan.predicted?.blackoutMs).toBeGreaterThan(20);
  expect(plan.predicted?.totalMs).toBeGreaterThan(plan.predicted?.blackoutMs ?? 0);
  expect(plan.predicted?.memoryBytes).toBeGreaterThan(40 * 1024 * 1024);
  expect(plan.predicted?.memoryBytes).toBeLessThan(80 * 1024 * 1024);
  expect(plan.predicted?.sentBytes).toBeGreaterThan(30 * 1024 * 1024);
  expect(plan.predicted?.dirtyBytesPerSecond).toBeGreaterThan(1_000_000);
  expect(await cluster.json("migrations")).toEqual([]);
  expect(await cluster.container("writer")).toMatchObject({ node: "n1", state: "running" });
});

test("a budget that cannot be kept is refused with the forecast, and nothing is recorded or frozen", async () => {
  for (const more of [[], ["--dry-run"]]) {
    const refused = await cluster.cli(["move", "writer", "n2", "--blackout-budget", "5ms", ...more]);
    expect(refused).toMatchObject({ code: 3, stdout: "" });
    expect(refused.stderr).toMatch(
      /stand still for about \d+ ms, its blackout budget is 5 ms; allow more with/,
    );
  }
  expect(await cluster.json("migrations", "--container", "writer")).toEqual([]);
  expect(cluster.runningOn(id)).toEqual(["n1"]);
});

test("a move records its forecast beside what it was", async () => {
  const moved = await cluster.json<Move>("move", "writer", "n2");
  expect(moved).toMatchObject({ state: "finished", errorCode: null });
  expect(moved.predicted?.blackoutMs).toBeGreaterThan(20);
  const recorded = await cluster.json<Move>("migrations", moved.id);
  expect(recorded.predicted).toEqual(moved.predicted);
  expect(await cluster.must("migrations", "-o", "wide")).toMatch(/FORECAST +OFF BY[\s\S]* [+-]?\d+% /);
  expect(await cluster.must("migrations", moved.id)).toMatch(/forecast +blackout/);
  expect(cpuMillis("n2")).toBe(800);
});

test("one that outruns the link is slowed down, kept to its budget, and back at its pace afterwards", async () => {
  const moving = cluster.cli([
    "move",
    "writer",
    "n2",
    "--bandwidth",
    "12m",
    "--blackout-budget",
    "1800ms",
    "-o",
    "json",
  ]);
  const { id: migration } = await running();
  const slowed = await cluster.watchMigration(migration, isSlowed);
  expect(isSlowed(slowed)).toBe(true);
  expect(cpuMillis("n1")).toBeLessThan(800);
  const { code, stdout, stderr } = await moving;
  expect(stderr).toBe("");
  expect(code).toBe(0);
  const moved = JSON.parse(stdout) as Move;
  expect(moved.state).toBe("finished");
  expect(moved.blackoutMs).toBeLessThan(1_800);
  expect(cpuMillis("n2")).toBe(800);
  await written(2_000);
});

test("a source's agent that dies while the container is slowed down gives it back its pace", async () => {
  const { id: migration } = await slowMove();
  await cluster.watchMigration(migration, isSlowed);
  expect(cpuMillis("n1")).toBeLessThan(800);
  const pid = await cluster.dev.node("n1").agentPid();
  process.kill(pid, "SIGKILL");
  const ended = await cluster.watchMigration(migration, () => false);
  expect(ended).toMatchObject({ state: "aborted" });
  await until("its own limit again", () => cpuMillis("n1") === 800);
  await until("the one copy to run on n1", () => cluster.runningOn(id).join() === "n1");
  await written(2_000);
});

test("a move that is cancelled while it copies leaves the container as it was", async () => {
  const { id: migration } = await slowMove();
  const slowed = await cluster.watchMigration(migration, isSlowed);
  expect(slowed.copy?.copyBytesPerSecond).toBeGreaterThan(0);
  expect(slowed.copy?.dirtyBytesPerSecond).toBeGreaterThan(0);
  expect(slowed.copy?.remainingMs).toBeGreaterThan(0);
  expect(slowed.bytesDone).toBeGreaterThan(0);
  const cancelled = await cluster.cli(["migrations", "--cancel", migration]);
  expect(cancelled).toMatchObject({ code: 0, stdout: "writer stays on n1\n" });
  await until("its own limit again", () => cpuMillis("n1") === 800);
  await until("the one copy to run on n1", () => cluster.runningOn(id).join() === "n1");
  await until("nothing left on n2", () => !cluster.isKnownOn("n2", id));
  await written(2_000);
});

/** Some two seconds of standing still. */
async function frozenMove(): Promise<string> {
  const flags = ["--mode", "checkpoint", "--bandwidth", "20m", "--blackout-budget", "4s", "--detach"];
  await cluster.must("move", "writer", "n2", ...flags);
  const { id: migration } = await running();
  const frozen = await cluster.watchMigration(migration, ({ phase }) => phase === "frozen");
  expect(frozen).toMatchObject({ phase: "frozen", error: "" });
  return migration;
}

test("a move that is cancelled while the container stands still lets it go on at once", async () => {
  await frozenMove();
  const cancelled = await cluster.cli(["move", "writer", "--cancel"]);
  expect(cancelled).toMatchObject({ code: 0, stdout: "writer stays on n1\n" });
  await until("the one copy to run on n1", () => cluster.runningOn(id).join() === "n1");
  // CRIU thaws the cgroup while it dumps: that alone does not say that the container goes on.
  await until("its own CPU limit to be back", () => cpuMillis("n1") === 800);
  await written(500);
  const again = await cluster.cli(["move", "writer", "--cancel"]);
  expect(again).toMatchObject({ code: 3, stderr: "godwit: writer is not on its way anywhere\n" });
});

test("a freeze that overruns its budget by far is given up", async () => {
  const migration = await frozenMove();
  const target = await cluster.dev.node("n2").agentPid();
  process.kill(target, "SIGSTOP");
  let ended: MigrationInfo;
  try {
    ended = await cluster.watchMigration(migration, () => false);
  } finally {
    process.kill(target, "SIGCONT");
  }
  expect(ended).toMatchObject({ state: "aborted", errorCode: "refused" });
  expect(ended.error).toMatch(
    /the source (n1 )?refused: it stood still for 12000 ms, its blackout budget is 4000 ms/,
  );
  await until("the one copy to run on n1", () => cluster.runningOn(id).join() === "n1");
  await written(500);
});

/** One whose rounds take seconds. */
async function slowMove(): Promise<{ id: string }> {
  await cluster.must("move", "writer", "n2", "--bandwidth", "10m", "--detach");
  return await running();
}

async function running(): Promise<Move> {
  return await until("the move to begin", async () =>
    (await cluster.json<Move[]>("migrations")).find(({ state }) => state === "running"),
  );
}
