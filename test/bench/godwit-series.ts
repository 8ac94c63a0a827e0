import { readFileSync } from "node:fs";

import { REDIS_COMMAND, type TestCluster } from "../e2e/cluster.ts";
import { PYTHON_IMAGE } from "../e2e/workload-program.ts";

import { LoadClient } from "./load-client.ts";
import { loadArgv } from "./place.ts";
import { type MoveSample, seen, type Series, type SeriesPlan } from "./series.ts";

const NAME = "bench";
export const MODES = ["auto", "checkpoint"] as const;

/** `godwit migrations ID -o json`, as far as it is used here. */
interface MigrationDetail {
  readonly id: string;
  readonly mode: string;
  readonly rounds: number;
  readonly blackoutMs: number;
  readonly totalMs: number;
  readonly memoryBytes: number;
  readonly sentBytes: number;
  readonly phases: Readonly<Record<string, number>>;
  readonly predicted: { readonly blackoutMs: number } | null;
}

/** Its keys take a fifth more than they are. */
export const limitMegabytes = ({ sizeMegabytes }: Pick<SeriesPlan, "sizeMegabytes">): number =>
  Math.ceil(sizeMegabytes * 1.3) + 256;

/** One container, moved to and fro between n1 and n2 in each mode, under the load of a client on n3. */
export async function measureGodwit(
  cluster: TestCluster,
  plan: SeriesPlan,
  modes: readonly (typeof MODES)[number][],
  say: (text: string) => void,
): Promise<Series[]> {
  const memory = `${limitMegabytes(plan)}m`;
  const share = Math.ceil(plan.sizeMegabytes / plan.processes);
  const isOne = plan.processes === 1;
  if (!isOne) await cluster.must("image", "import", "python", PYTHON_IMAGE);
  const command = isOne ? REDIS_COMMAND : manyCommand(plan.processes, share);
  const image = isOne ? "redis" : "python";
  await cluster.must("run", "--node", "n1", "--memory", memory, NAME, image, "--", ...command);
  const series: Series[] = [];
  try {
    const { address } = await cluster.container(NAME);
    await using client = new LoadClient(loadArgv(cluster.dev.dataDir, "n3", address));
    await client.fill(share);
    await client.rate(plan.writeMegabytesPerSecond);
    for (const mode of modes) {
      say(`godwit, mode ${mode} …`);
      series.push(await measureMode(cluster, client, plan, mode));
    }
  } finally {
    await cluster.cli(["rm", "--force", NAME]);
  }
  return series;
}

/** One that answers the client, and others beside it, all in one container. */
function manyCommand(processes: number, megabytesEach: number): string[] {
  const program = readFileSync(new URL("many-processes.py", import.meta.url), "utf8");
  return ["python3", "-c", program, String(processes), String(megabytesEach)];
}

async function measureMode(
  cluster: TestCluster,
  client: LoadClient,
  plan: SeriesPlan,
  mode: (typeof MODES)[number],
): Promise<Series> {
  const samples: MoveSample[] = [];
  let note = "";
  try {
    for (let round = -plan.warmups; round < plan.rounds; round += 1) {
      const sample = await measureMove(cluster, client, mode);
      if (round >= 0) samples.push(sample);
      if (!sample.isIntact) throw new Error(`the client: ${sample.error || "a wrong answer"}`);
    }
  } catch (error) {
    note = error instanceof Error ? error.message : String(error);
  }
  const { sizeMegabytes, writeMegabytesPerSecond, processes } = plan;
  return { sizeMegabytes, writeMegabytesPerSecond, processes, method: `godwit-${mode}`, samples, note };
}

async function measureMove(cluster: TestCluster, client: LoadClient, mode: string): Promise<MoveSample> {
  const { node } = await cluster.container(NAME);
  await client.mark();
  const { id } = await cluster.json<MigrationDetail>(
    "move",
    NAME,
    node === "n1" ? "n2" : "n1",
    "--mode",
    mode,
  );
  const window = await client.mark();
  const move = (await cluster.json<MigrationDetail[]>("migrations")).find((row) => row.id === id);
  if (move === undefined) throw new Error(`'godwit migrations' does not list ${id}`);
  return {
    ...seen(window),
    blackoutMs: move.blackoutMs,
    ...(move.predicted === null ? {} : { predictedBlackoutMs: move.predicted.blackoutMs }),
    totalMs: move.totalMs,
    memoryBytes: move.memoryBytes,
    sentBytes: move.sentBytes,
    mode: move.mode,
    rounds: move.rounds,
    phasesMs: move.phases,
    requests: window.requests,
    writtenBytes: window.writtenBytes,
  };
}
