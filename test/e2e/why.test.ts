/** What keeps a container from moving is known before anyone tries; and what a move does to a terminal that is attached. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type MoveRow, REDIS_IMAGE, TestCluster, until } from "./cluster.ts";

const CLI = fileURLToPath(new URL("../../services/cli/main.ts", import.meta.url));
const PYTHON_IMAGE = `${dirname(REDIS_IMAGE)}/python.tar`;
const LIBC = "import ctypes, os, socket, time\nlibc = ctypes.CDLL(None)\n";
const IO_URING = `${LIBC}print(libc.syscall(425, 8, ctypes.create_string_buffer(120)), flush=True)\ntime.sleep(100000)`;

interface Blocker {
  readonly kind: string;
  readonly reason: string;
}
interface Why {
  readonly node: string;
  readonly history: readonly { readonly text: string }[];
  readonly blockers: readonly Blocker[];
  readonly staysBecause: readonly string[];
  readonly nodes: readonly { readonly node: string; readonly canMove: boolean; readonly reasons: string[] }[];
  readonly lastMove: MoveRow | null;
}

describe("why a container is where it is", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
    await cluster.must("image", "import", "python", PYTHON_IMAGE);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  const why = async (name: string): Promise<Why> => await cluster.json<Why>("why", name);
  const blockersOf = async (name: string): Promise<string[]> =>
    (await why(name)).blockers.map(({ kind }) => kind);
  const python = async (name: string, script: string, ...flags: string[]): Promise<void> => {
    const where = ["--node", "n1", "--memory", "64m"];
    await cluster.must("run", ...where, ...flags, name, "python", "--", "python3", "-c", script);
  };

  test("io_uring is kept away from programs, and a blocker where it is not", async () => {
    await python("cured", IO_URING);
    await python("uncured", IO_URING, "--no-cures");
    await until("io_uring to be found", async () => (await blockersOf("uncured")).includes("io-uring"));
    expect(await cluster.must("logs", "cured")).toMatch(/^-1$/m);
    const rows = await cluster.json<{ name: string; blockers: Blocker[] }[]>("ps");
    expect(rows.find(({ name }) => name === "uncured")?.blockers[0]?.reason).toMatch(/UV_USE_IO_URING=0/);
    expect(await cluster.must("ps")).toMatch(/^uncured .* io-uring$/m);
    expect(await cluster.must("ps")).toMatch(/^cured .* yes$/m);
    expect(await why("cured")).toMatchObject({ blockers: [], staysBecause: [] });

    const refused = await cluster.cli(["move", "uncured", "n2"]);
    expect(refused).toMatchObject({ code: 3 });
    expect(refused.stderr).toMatch(/uses io_uring/);
    expect(await cluster.json("migrations", "--container", "uncured")).toEqual([]);
    const drain = await cluster.cli(["node", "drain", "n1", "--dry-run"]);
    expect(`${drain.stdout}${drain.stderr}`).toMatch(/uncured .*io_uring/);
  });

  test("what has been removed is no blocker any more", async () => {
    const script = `${LIBC}f = libc.eventfd(1, 1)
while not os.path.exists("/let-go"): time.sleep(0.05)
os.close(f); time.sleep(100000)`;
    await python("holder", script);
    await until("the semaphore to be found", async () =>
      (await blockersOf("holder")).includes("eventfd-semaphore"),
    );
    await cluster.sh("holder", "touch /let-go");
    await until("it to be gone", async () => (await blockersOf("holder")).length === 0);
    expect(await cluster.json<MoveRow>("move", "holder", "n2")).toMatchObject({ state: "finished" });
  });

  test("each other node says why it does not take it", async () => {
    await cluster.must("run", "--node", "n2", "--memory", "64m", "plain", "redis", "--", "sleep", "100000");
    await cluster.must("node", "cordon", "n1");
    const { nodes, history, node } = await why("plain");
    expect(node).toBe("n2");
    expect(history[0]?.text).toMatch(/placed on n2, as asked for with --node n2/);
    expect(nodes).toMatchObject([
      { node: "n1", canMove: false, reasons: [expect.stringMatching(/cordoned/)] },
      { node: "n3", canMove: true, reasons: [] },
    ]);
    const refused = await cluster.cli(["move", "plain", "n1"]);
    expect(refused.code).toBe(3);
    expect(refused.stderr.trim()).toBe(`godwit: ${nodes[0]?.reasons[0]}`);
    await cluster.must("node", "uncordon", "n1");
    await cluster.must("move", "plain", "n3");
    const after = await why("plain");
    expect(after.history.at(-1)?.text).toBe("moved from n2 to n3 by an operator");
    expect(after.lastMove).toMatchObject({ from: "n2", to: "n3", state: "finished" });
    expect(await cluster.must("why", "plain")).toMatch(/Last move: plain moved from n2 to n3/);
  });

  test("a terminal that is attached is closed with a message, and left as it was", async () => {
    await cluster.must("run", "--node", "n1", "--memory", "64m", "shell", "redis", "--", "sleep", "100000");
    const line = `${process.execPath} ${CLI} exec -it shell -- sh; echo "code=$?"; echo "after=$(stty -g)"`;
    // A terminal of its own, from util-linux.
    const child = spawn("script", ["-qfec", `echo "before=$(stty -g)"; ${line}`, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, GODWIT_API: cluster.dev.api },
    });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
    try {
      await until("a prompt", () => Promise.resolve(/[#$] /.test(output)), 30_000);
      // As a full-screen program does: the other screen, no cursor.
      child.stdin.write(`printf '\\033[?1049h\\033[?25l'; echo at-$((40+2)); sleep 1000\n`);
      await until("the command to run", () => Promise.resolve(output.includes("at-42")), 30_000);
      await cluster.must("move", "shell", "n2");
      if (child.exitCode === null) await once(child, "exit");
    } finally {
      child.kill("SIGKILL");
    }
    expect(output).toMatch(/\n?godwit: the container moved to n2 during the session; run the command again/);
    expect(output.indexOf("\u001b[?1049l")).toBeGreaterThan(output.indexOf("at-42"));
    expect(output).toContain("\u001b[?25h");
    expect(output).toMatch(/^code=1\r$/m);
    const settings = (name: string): string | undefined =>
      new RegExp(`^${name}=(\\S+)`, "m").exec(output)?.[1];
    expect(settings("after")).toBe(settings("before"));
    expect(await cluster.sh("shell", "echo still there")).toBe("still there\n");
  });
});
