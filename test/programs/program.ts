/** Real programs in containers: how they are started, put under load, moved and looked at. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { dirname } from "node:path";

import { expect } from "vitest";

import { LoadClient } from "../demo/client-process.ts";
import type { Window } from "../demo/redis-client.ts";
import { type MoveRow, REDIS_IMAGE, type TestCluster, until } from "../e2e/cluster.ts";
import type { CliResult } from "../e2e/cluster-user.ts";

/** Twice to each host but the one that it starts on, which is n1. */
const ROUTE = ["n2", "n3", "n1", "n2", "n3"];

export async function importImages(cluster: TestCluster, ...names: string[]): Promise<void> {
  for (const name of names)
    await cluster.must("image", "import", name, `${dirname(REDIS_IMAGE)}/${name}.tar`);
}

export function workload(file: string): string {
  return readFileSync(fileURLToPath(new URL(`workload/${file}`, import.meta.url)), "utf8");
}

/** load/main.ts on the host n3. */
export function loadOn(
  cluster: TestCluster,
  protocol: "http" | "memcached",
  address: string,
  port: number,
  connections: number,
): LoadClient {
  const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
  return new LoadClient([
    ...[process.execPath, file("../../services/cli/main.ts"), "dev", "exec", "--data", cluster.dev.dataDir],
    ...[
      "n3",
      "--",
      process.execPath,
      file("load/main.ts"),
      protocol,
      address,
      String(port),
      `${connections}`,
    ],
  ]);
}

/** Moves it round all hosts; each move must be live and leave one copy, with the address and no restart. */
export async function moveRound(
  cluster: TestCluster,
  name: string,
  afterEach: (move: MoveRow) => Promise<void> = () => Promise.resolve(),
): Promise<MoveRow[]> {
  const { id, address } = await cluster.container(name);
  const moves: MoveRow[] = [];
  for (const to of ROUTE) {
    const move = await cluster.json<MoveRow>("move", name, to);
    expect(move).toMatchObject({ state: "finished", to });
    expect(cluster.runningOn(id)).toEqual([to]);
    expect(await cluster.container(name)).toMatchObject({ state: "running", node: to, address, restarts: 0 });
    moves.push(move);
    await afterEach(move);
  }
  const blackouts = moves.map((move) => Math.round(move.blackoutMs)).join(", ");
  process.stdout.write(`${name}: blackouts by Godwit's own figures, in ms: ${blackouts}\n`);
  return moves;
}

/** moveRound under load/main.ts; answers what the load generator saw in each move. */
export async function moveUnderLoad(
  cluster: TestCluster,
  name: string,
  load: LoadClient,
  connections: number,
): Promise<Omit<Window, "counter">[]> {
  let done = 0;
  // Its connections stand, and it is served.
  await until(`${name} to be served`, async () => (done += (await load.mark()).requests) > 50);
  const seen: Omit<Window, "counter">[] = [];
  await moveRound(cluster, name, async () => {
    const window = await load.mark();
    expect(window).toMatchObject({ connections, wrong: 0, lost: 0, error: "" });
    seen.push(window);
  });
  let after = 0;
  await until(`${name} to go on`, async () => (after += (await load.mark()).requests) > 50);
  expect(await load.wrongKeys()).toBe(0);
  const stalls = seen.map((window) => Math.round(window.longestMs)).join(", ");
  process.stdout.write(`${name}: the longest that a request took in each move, in ms: ${stalls}\n`);
  return seen;
}

/** Lines "tick N" in a container's log: all of them, once each. */
export async function expectEveryTick(cluster: TestCluster, name: string): Promise<void> {
  const ticks = (await cluster.must("logs", name)).split("\n").filter((line) => line.startsWith("tick "));
  expect(ticks.length).toBeGreaterThan(20);
  expect(ticks).toEqual(ticks.map((_, index) => `tick ${index + 1}`));
}

/**
 * A load generator that the image has, in a container of its own on n3: started, and ended by a signal that makes it
 * sum up.
 */
export class GeneratorContainer {
  readonly #cluster: TestCluster;
  readonly #name: string;

  private constructor(cluster: TestCluster, name: string) {
    this.#cluster = cluster;
    this.#name = name;
  }

  static async start(cluster: TestCluster, image: string, ...flags: string[]): Promise<GeneratorContainer> {
    const name = `${image}-load`;
    await cluster.must(
      "run",
      "--node",
      "n3",
      "--stop-signal",
      "KILL",
      ...flags,
      name,
      image,
      "--",
      "sleep",
      "9999",
    );
    return new GeneratorContainer(cluster, name);
  }

  /** @param argv its time limit must be shorter than the 200 s that a command may take */
  async run(...argv: string[]): Promise<CliResult> {
    return await this.#cluster.cli(["exec", this.#name, "--", ...argv]);
  }

  async finish(program: string, signal: string): Promise<void> {
    await this.#cluster.must("exec", this.#name, "--", "killall", `-${signal}`, program);
  }

  async remove(): Promise<void> {
    await this.#cluster.must("rm", "-f", this.#name);
  }
}

/** Both of a container's streams; `godwit logs` tells them apart. */
export async function logOf(cluster: TestCluster, name: string): Promise<string> {
  const { stdout, stderr } = await cluster.cli(["logs", name]);
  return stdout + stderr;
}
