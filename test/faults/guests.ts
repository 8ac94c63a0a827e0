/** Containers that do something of their own while they are moved. */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";

import { netnsPrefix } from "../../services/dev/plan.ts";
import { type MoveRow, REDIS_IMAGE, until } from "../e2e/cluster.ts";
import { signal } from "./faults.ts";
import { leftovers } from "./host-view.ts";
import type { Laboratory } from "./laboratory.ts";
import type { WholeMoveFault } from "./rows.ts";
import { heldAt, type Outcome } from "./held-at.ts";

const GUEST = "guest";
const run = promisify(execFile);

/** Counts into a file for ever; what it does beside that, it is told by signals. */
const SHELL = `
trap 'exit 7' TERM
trap 'exec sh -c "n=$n; while :; do n=\\$((n+1)); echo \\$n >> /numbers; sleep 0.02; done"' USR2
trap 'i=0; while [ $i -lt 20 ]; do i=$((i+1)); sleep 0.0$((i % 10)) & done' USR1
trap 'exec dd if=/dev/zero of=/dev/null bs=400M' HUP
n=0; while :; do n=$((n+1)); echo $n >> /numbers; sleep 0.02; done`;

/** Writes all of 64 MB again and again, and ends when it finds a page that is not as it was left. */
const PYTHON = `
import mmap
size = 64 << 20
memory = mmap.mmap(-1, size)
n = 0
while True:
    byte = bytes([n % 256])
    for at in range(0, size, 1 << 20):
        assert n == 0 or memory[at:at + (1 << 20)] == last * (1 << 20), "a page is not as it was left"
        memory[at:at + (1 << 20)] = byte * (1 << 20)
    last = byte
    n += 1
    with open("/numbers", "a") as file: file.write(f"{n}\\n")
`;

const SIGNALS: Partial<Record<WholeMoveFault, NodeJS.Signals>> = {
  "container exits": "SIGTERM",
  "container forks": "SIGUSR1",
  "container execs": "SIGUSR2",
  "container runs out of its memory": "SIGHUP",
};
/** Slower than the container writes. */
const LINK_RATE = "400mbit";

export async function guestUnder(laboratory: Laboratory, fault: WholeMoveFault): Promise<Outcome> {
  const { cluster } = laboratory;
  const isWriter = fault === "container writes faster than the link";
  if (isWriter) await cluster.cli(["image", "import", "python", `${dirname(REDIS_IMAGE)}/python.tar`]);
  const program = isWriter ? ["python", "--", "python3", "-c", PYTHON] : ["redis", "--", "sh", "-c", SHELL];
  await cluster.must(
    ...["run", "--node", "n1", "--restart", "never", "--memory", isWriter ? "256m" : "64m", GUEST],
    ...program,
  );
  try {
    const { id } = await cluster.container(GUEST);
    const guest = new Guest(laboratory, id);
    await until("the container to count", () => guest.numbers("n1").length > 3);
    if (isWriter) return await overSlowLink(guest);
    return await heldAt(laboratory, "n1", "phase COPYING", "after", async (held) => {
      const { id: migration } = await cluster.startMove(GUEST, "n2");
      const agent = await held();
      const [init = 0] = cluster.processesOn("n1", id);
      signal(init, SIGNALS[fault] ?? "SIGCONT");
      signal(agent, "SIGCONT");
      if (fault === "container forks") return await forkOn(guest, migration, init);
      const { state, error } = await laboratory.ended(migration);
      if (fault === "container execs") return await guest.goesOn(state, error);
      if (!/the container (exited|ended)/.test(error))
        throw new Error(`the move was called off, but: ${error}`);
      return await guest.hasEnded(state, error, fault === "container exits" ? /"exitCode": ?7\b/ : /memory/);
    });
  } finally {
    await cluster.must("rm", "-f", GUEST);
  }
}

/** More children all the while. */
async function forkOn(guest: Guest, migration: string, init: number): Promise<Outcome> {
  let isOver = false;
  const forking = (async () => {
    while (!isOver) {
      signal(init, "SIGUSR1");
      await delay(50);
    }
  })();
  const { state, error } = await guest.laboratory.ended(migration).finally(() => (isOver = true));
  await forking;
  return await guest.goesOn(state, error);
}

async function overSlowLink(guest: Guest): Promise<Outcome> {
  const { cluster } = guest.laboratory;
  const { netns } = cluster.dev.node("n2");
  const tc = async (...argv: string[]): Promise<void> => {
    await run("ip", [
      "netns",
      "exec",
      `${netns.slice(0, netnsPrefix("").length + 6)}ctl`,
      "tc",
      "qdisc",
      ...argv,
    ]);
  };
  await tc("add", "dev", "to-n2", "root", "tbf", "rate", LINK_RATE, "burst", "1mb", "latency", "200ms");
  try {
    const { id } = await cluster.startMove(GUEST, "n2");
    const { state, error } = await guest.laboratory.ended(id);
    return await guest.goesOn(state, error);
  } finally {
    await tc("del", "dev", "to-n2", "root");
  }
}

class Guest {
  readonly laboratory: Laboratory;
  readonly #id: string;

  constructor(laboratory: Laboratory, id: string) {
    this.laboratory = laboratory;
    this.#id = id;
  }

  /** What it has written into its file on that host. */
  numbers(node: string): number[] {
    const { dataDir } = this.laboratory.cluster.dev.node(node);
    try {
      const text = readFileSync(`${dataDir}/containers/${this.#id}/upper/numbers`, "utf8");
      return text.split("\n").slice(0, -1).map(Number);
    } catch {
      return []; // nothing yet
    }
  }

  /** Exactly one copy runs where the log says, and no number is missing, torn or doubled. */
  async goesOn(state: string, error: string): Promise<Outcome> {
    const { cluster } = this.laboratory;
    const home = state === "finished" ? "n2" : "n1";
    await until(`one running copy, on ${home}`, () => cluster.runningOn(this.#id).join() === home);
    const before = this.numbers(home).length;
    await until("it to count on", () => this.numbers(home).length > before + 3);
    const numbers = this.numbers(home);
    const wrong = numbers.findIndex((number, index) => number !== index + 1);
    if (wrong >= 0) throw new Error(`${numbers[wrong]} is where ${wrong + 1} should be`);
    await this.#nothingLeft(home);
    return { outcome: state === "finished" ? "moved" : "stayed", words: error };
  }

  /** It runs nowhere, and it is said why. */
  async hasEnded(state: string, error: string, why: RegExp): Promise<Outcome> {
    const { cluster } = this.laboratory;
    const row = await until("the end to be recorded", async () => {
      const found = (await cluster.json<(MoveRow & { name: string; message?: string })[]>("ps")).find(
        ({ name }) => name === GUEST,
      );
      return found !== undefined && found.state !== "running" && found.state !== "starting"
        ? found
        : undefined;
    });
    const inspected = await cluster.must("inspect", GUEST, "-o", "json");
    if (!why.test(`${error} ${inspected}`)) throw new Error(`nothing says why: ${error}; ${inspected}`);
    if (cluster.runningOn(this.#id).length > 0) throw new Error("a copy runs");
    await this.#nothingLeft(state === "finished" ? "n2" : "n1");
    return { outcome: "ended", words: `${row.state}; ${error}` };
  }

  async #nothingLeft(home: string): Promise<void> {
    const { cluster } = this.laboratory;
    await until(
      "nothing to be left of the move",
      () => {
        const left = cluster.dev.nodes
          .filter(({ name }) => name !== home)
          .flatMap(({ name }) => leftovers(cluster, name, this.#id, false));
        if (left.length > 0) throw new Error(left.join("; "));
        return true;
      },
      20_000,
    );
  }
}
