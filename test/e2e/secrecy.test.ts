import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readdirSync, readFileSync, statfsSync, statSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { MigrationInfo } from "../../proto/gen/godwit/v1/api.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { type MoveRow, REDIS_COMMAND, TestCluster, until } from "./cluster.ts";
import type { Heard } from "./eavesdropper.ts";

const repo = fileURLToPath(new URL("../..", import.meta.url));
const NATS_URL = "nats://10.77.0.1:4222";
const SECRET_HASHES = 100_000;
/** Makes 2 MB that look random inside the container: what it is made of is all that goes over the wire to it. */
const MAKE_SECRET = `
  local parts = {}
  for i = 1, ${SECRET_HASHES} do
    parts[i] = redis.sha1hex('s' .. i):gsub('..', function(pair) return string.char(tonumber(pair, 16)) end)
  end
  redis.call('set', 'secret', table.concat(parts))
  return redis.call('strlen', 'secret')`;
const needle = (index: number): string => createHash("sha1").update(`s${index}`).digest("hex");
const NEEDLES = Array.from({ length: 50 }, (_, at) => needle(1 + at * 1_999));
/** Sent openly, so that it is known that what is sent openly is found. */
const CANARY = "a canary that everybody may read";

describe("what others on the bus learn of a container that is moved", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
    await cluster.must("run", "--node", "n1", "--memory", "128m", "vault", "redis", "--", ...REDIS_COMMAND);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  /** An eavesdropper on the control network; answers what it heard while `act` went on. */
  async function eavesdrop(needles: readonly string[], act: () => Promise<void>): Promise<Heard> {
    const argv = [
      ...[`${repo}services/cli/main.ts`, "dev", "exec", "--data", cluster.dev.dataDir, "n3", "--"],
      ...[process.execPath, `${repo}test/e2e/eavesdropper.ts`, NATS_URL],
      `${cluster.dev.dataDir}/secrets/scheduler`,
      ...needles,
    ];
    const child = spawn(process.execPath, argv, { stdio: ["pipe", "pipe", "inherit"], timeout: 120_000 });
    try {
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      expect((await lines.next()).value).toBe("ready");
      await act();
      child.stdin.end();
      return JSON.parse((await lines.next()).value as string) as Heard;
    } finally {
      child.stdin.end();
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    }
  }

  test("nothing of its memory, whoever listens; and who repeats and forges does not hold the move up", async () => {
    const length = await cluster.must("exec", "vault", "--", "redis-cli", "eval", MAKE_SECRET, "0");
    expect(length.trim()).toBe(String(SECRET_HASHES * 20));
    let move: MoveRow | undefined;
    const heard = await eavesdrop([...NEEDLES, Buffer.from(CANARY).toString("hex")], async () => {
      await cluster.must("exec", "vault", "--", "redis-cli", "set", "canary", CANARY);
      move = await cluster.json<MoveRow>("move", "vault", "n2");
    });
    expect(move).toMatchObject({ state: "finished", to: "n2" });
    // It has heard the whole stream, and would have known the secret.
    expect(heard.migrationBytes).toBeGreaterThanOrEqual(move?.sentBytes ?? Infinity);
    expect(move?.sentBytes).toBeGreaterThan(SECRET_HASHES * 20);
    expect(heard.migrationChunks).toBeGreaterThan(8);
    expect(heard.forged).toBeGreaterThan(10);
    expect(heard.found).toEqual([Buffer.from(CANARY).toString("hex")]);
    expect(
      (await cluster.must("exec", "vault", "--", "redis-cli", "getrange", "secret", "0", "3")).length,
    ).toBeGreaterThan(0);
    expect(
      (
        await cluster.must(
          "exec",
          "vault",
          "--",
          "redis-cli",
          "eval",
          "return redis.sha1hex(redis.call('get','secret'))",
          "0",
        )
      ).trim(),
    ).toBe(secretDigest());
  });

  test("each host's key is for root alone, and its own", () => {
    const keys = cluster.dev.nodes.map(({ name }) => {
      const path = `${cluster.dev.node(name).dataDir}/stream-key.pem`;
      expect(statSync(path).mode & 0o777).toBe(0o600);
      return readFileSync(path, "utf8");
    });
    expect(new Set(keys).size).toBe(3);
  });

  test("--bandwidth holds a move to its rate", async () => {
    const slow = await cluster.json<MoveRow>("move", "vault", "n1", "--bandwidth", "2m");
    expect(slow).toMatchObject({ state: "finished", to: "n1" });
    const seconds = slow.totalMs / 1000;
    expect(slow.sentBytes / seconds).toBeLessThan(2.2 * 1024 * 1024);
    expect(seconds).toBeGreaterThan(1);
  });

  /** As the host sees it: it has mounts of its own. */
  async function imageFolder(node: string): Promise<string> {
    const { id } = await cluster.container("vault");
    const host = cluster.dev.node(node);
    return `/proc/${await host.agentPid()}/root${host.stateDir}/containers/${id}/images`;
  }

  test("an image is on a tmpfs that root alone can enter, and goes also when an agent dies", async () => {
    const folders = await Promise.all(["n1", "n2"].map(imageFolder));
    const { id: migration } = await startSlowMove();
    await cluster.watchMigration(migration, (info) => info.phase === "copying" || info.phase === "receiving");
    for (const folder of folders) {
      await until(`a tmpfs at ${folder}`, () => statfsSync(folder).type === TMPFS_MAGIC);
      expect(statSync(folder).mode & 0o777).toBe(0o700);
    }
    for (const name of readdirSync(folders[1] ?? "", { recursive: true, withFileTypes: true }))
      if (name.isFile()) expect(statSync(`${name.parentPath}/${name.name}`).mode & 0o077).toBe(0);
    process.kill(await cluster.dev.node("n1").agentPid(), "SIGKILL");
    const ended = await cluster.watchMigration(migration, () => false);
    expect(ended.state).toBe("aborted");
    for (const node of ["n1", "n2"])
      await until(`no image to be left on ${node}`, async () => {
        return statSync(await imageFolder(node), { throwIfNoEntry: false }) === undefined;
      });
    expect(await cluster.container("vault")).toMatchObject({ node: "n1", state: "running", restarts: 0 });
  });

  function startSlowMove(): Promise<MigrationInfo> {
    return new Promise((resolve, reject) => {
      cluster.api.move(
        {
          nameOrId: "vault",
          node: "n2",
          mode: MigrationMode.AUTO,
          blackoutBudgetMs: 0,
          bandwidthBytesPerSecond: 512 * 1024,
          dryRun: false,
        },
        (error, answer) => (error === null ? resolve(answer) : reject(error)),
      );
    });
  }
});

const TMPFS_MAGIC = 0x01021994;

function secretDigest(): string {
  const hash = createHash("sha1");
  for (let index = 1; index <= SECRET_HASHES; index += 1) hash.update(Buffer.from(needle(index), "hex"));
  return hash.digest("hex");
}
