/** The command itself, as a process, against a real API with simulated agents. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { extract } from "tar-stream";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NatsServer } from "../../scheduler/testing/nats-server.ts";
import { SimulatedAgent } from "../../scheduler/testing/simulated-agent.ts";
import { ociLayout, tarOf } from "../api/image/testing/archives.ts";
import { ApiCluster } from "../api/testing/api-cluster.ts";
import { runCommand, type CommandResult } from "./testing/run-command.ts";

let cluster: ApiCluster;

beforeAll(async () => {
  cluster = await ApiCluster.start(
    () => NatsServer.start(),
    (url, name) => SimulatedAgent.start(url, name),
  );
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});

const godwit = (args: readonly string[], stdin?: Buffer): Promise<CommandResult> =>
  runCommand(args, {
    api: cluster.unixAddress,
    timeoutMs: 30_000,
    ...(stdin === undefined ? {} : { stdin }),
  });
async function json<T>(...args: string[]): Promise<T> {
  const end = args.includes("--") ? args.indexOf("--") : args.length;
  const { code, stdout, stderr } = await godwit(args.toSpliced(end, 0, "-o", "json"));
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as T;
}

/** Writes a tar's files out, as an OCI layout lies on a disk. */
async function unpack(tar: Buffer, folder: string): Promise<void> {
  const reader = extract();
  reader.end(tar);
  for await (const entry of reader) {
    const path = join(folder, entry.header.name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, Buffer.concat(await Array.fromAsync(entry as AsyncIterable<Buffer>)));
  }
}

describe("images, containers, moves and nodes from the command line", () => {
  test("a whole story", async () => {
    const tar = await tarOf([{ name: "bin/app", content: Buffer.alloc(600_000, 7) }]);
    const file = join(cluster.folder, "app.tar.gz");
    await writeFile(file, gzipSync(tar));
    const imported = await json<{ name: string; digest: string }>("image", "import", "app", file);
    expect(imported).toMatchObject({ name: "app", layers: 1, sizeBytes: tar.length });
    expect(await godwit(["image", "import", "piped", "-"], tar)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("piped imported"),
    });
    const layout = join(cluster.folder, "layout");
    await unpack(await ociLayout([{ tar, blob: gzipSync(tar) }]), layout);
    expect(await godwit(["image", "import", "folder", layout])).toMatchObject({ code: 0, stderr: "" });
    expect((await json<{ name: string }[]>("image", "ls")).map((image) => image.name)).toEqual([
      "app",
      "folder",
      "piped",
    ]);
    expect(await godwit(["image", "rm", "folder", "piped"])).toMatchObject({ code: 0 });

    const flags = [
      "--node",
      "n1",
      "--memory",
      "64m",
      "--cpus",
      "0.5",
      "-e",
      "A=1",
      "--label",
      "x=y",
      "--stop-grace",
      "1s",
    ];
    const web = await json<object>("run", ...flags, "web", "app", "--", "/bin/app", "--port", "80");
    expect(web).toMatchObject({
      name: "web",
      state: "running",
      node: "n1",
      spec: {
        command: ["/bin/app", "--port", "80"],
        env: { A: "1" },
        limits: { memoryBytes: 64 * 2 ** 20, cpus: 0.5 },
      },
    });
    expect(await json("ps")).toMatchObject([
      { name: "web", image: "app", node: "n1", state: "running", epoch: 1, labels: { x: "y" } },
    ]);
    const ps = await godwit(["ps"]);
    expect(ps.stdout).toMatch(/^NAME +IMAGE +NODE +STATE +ADDRESS.*\nweb +app +n1 +running +10\.80\./);
    expect(await json("inspect", "we")).toMatchObject({ name: "web" });
    expect((await godwit(["inspect", "web"])).stdout).toMatch(/^Name +web$/m);

    expect(await json("move", "web", "n2", "--dry-run")).toMatchObject({
      state: "planned",
      from: "n1",
      to: "n2",
    });
    const move = await json<{ id: string }>("move", "web", "n2");
    expect(move).toMatchObject({
      container: "web",
      from: "n1",
      to: "n2",
      state: "finished",
      blackoutMs: 120,
      sentBytes: 4096,
      error: null,
    });
    expect(await json("migrations", move.id)).toMatchObject({ id: move.id, phases: { dumpMs: 60 } });
    expect(await json("migrations")).toHaveLength(1);
    const again = await godwit(["move", "web", "n2"]);
    expect(again.code).toBe(3);
    expect(again.stderr).toMatch(/^godwit: .*n2.*\n$/);

    expect(await json("node", "drain", "n2")).toMatchObject({
      node: "n2",
      moved: [{ container: "web", to: "n1" }],
      failed: [],
      remaining: [],
    });
    expect(await json("node", "ls")).toMatchObject([
      { name: "n1" },
      { name: "n2", state: "drained", schedulable: false },
    ]);
    expect(await godwit(["node", "uncordon", "n2"])).toMatchObject({ code: 0 });
    expect(await json("status")).toMatchObject({
      leader: "s1",
      nodes: { ready: 2, total: 2 },
      containers: { running: 1, total: 1 },
    });
    expect((await json<{ kind: string }[]>("events")).map((event) => event.kind)).toContain(
      "migration.switched",
    );

    expect(await godwit(["rm", "web"])).toMatchObject({ code: 3 });
    expect(await godwit(["stop", "web"])).toMatchObject({ code: 0, stdout: "web stopped\n" });
    expect(await godwit(["start", "web"])).toMatchObject({ code: 0, stdout: "web running on n1\n" });
    expect(await godwit(["restart", "web"])).toMatchObject({ code: 0, stdout: "web running on n1\n" });
    expect(await godwit(["image", "rm", "app"])).toMatchObject({
      code: 3,
      stderr: expect.stringContaining("web"),
    });
    expect(await godwit(["rm", "-f", "web"])).toMatchObject({ code: 0, stdout: "web removed\n" });
    expect(await json("ps")).toEqual([]);
  });

  test("no room is a refusal that says what happens next", async () => {
    await godwit(["image", "import", "app", "-"], await tarOf([{ name: "a", content: "a" }]));
    const run = (name: string, memory: string): Promise<CommandResult> =>
      godwit(["run", "--memory", memory, name, "app"]);
    const tooLarge = await run("huge", "500g");
    expect(tooLarge).toMatchObject({
      code: 3,
      stdout: "",
      stderr: expect.stringContaining("more than any node has"),
    });
    expect(await Promise.all([run("a", "900m"), run("b", "900m")])).toMatchObject([{ code: 0 }, { code: 0 }]);
    const waiting = await run("c", "900m");
    expect(waiting).toMatchObject({ code: 3, stdout: "" });
    expect(waiting.stderr).toMatch(
      /^godwit: c is recorded and waits for a place: .*memory.*'godwit rm c' gives up\n$/,
    );
    expect((await json<{ warnings: string[] }>("status")).warnings.join()).toContain(
      "container c waits for a place",
    );
    expect(await godwit(["rm", "-f", "c", "b", "a"])).toMatchObject({
      code: 0,
      stdout: "c removed\nb removed\na removed\n",
    });
  });
});

describe("mistakes", () => {
  test.each([
    [["nope"], 2, "unknown command 'nope'"],
    [["ps", "--bogus"], 2, "unknown option '--bogus'"],
    [["run", "x"], 2, "missing required argument 'image'"],
    [["run", "--memory", "12x", "x", "y"], 2, '"12x" is no size'],
    [["ps", "-o", "yaml"], 2, "no output format"],
    [["inspect", "nothing"], 1, "there is no container"],
    [["run", "x", "nothing"], 1, "there is no image"],
    [["image", "import", "x", "/nonexistent"], 1, "cannot be read"],
    [["image", "import", "x", "/proc"], 2, "oci-layout"],
    [["ps", "--api", "unix:/nonexistent"], 1, "cannot be reached"],
  ] as const)("%j ends with %d", async (args, code, message) => {
    const result = await godwit(args);
    expect(result).toMatchObject({ code, stdout: "", stderr: expect.stringContaining(message) });
    expect(result.stderr).toMatch(/^godwit: [^\n]+\n$/);
  });

  test("a damaged archive", async () => {
    const result = await godwit(
      ["image", "import", "bad", "-"],
      gzipSync(await tarOf([{ name: "a", content: "a" }])).subarray(0, 60),
    );
    expect(result).toMatchObject({ code: 1, stderr: expect.stringContaining("damaged or cut short") });
  });
});
