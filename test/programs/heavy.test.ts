/** Real programs whose images take long to make, and the harder cases: `npm run test:programs`. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { TestCluster, until } from "../e2e/cluster.ts";
import { expectAllAnswered, startNginx } from "./nginx.ts";
import {
  expectEveryTick,
  GeneratorContainer,
  importImages,
  logOf,
  loadOn,
  moveRound,
  moveUnderLoad,
  workload,
} from "./program.ts";

const CONNECTIONS = 8;

/** A server with its own client over a unix socket, as sidecars are; what was there is checked before it starts. */
const POSTGRES = `
if [ -e $PGDATA/PG_VERSION ]; then
  # Only what was stopped in good order can be checked.
  pg_controldata | grep -q 'shut down$' && { pg_checksums --check || exit 1; }
else
  initdb --data-checksums -A trust -U postgres --locale=C >/dev/null 2>&1
  echo "host all all all trust" >> $PGDATA/pg_hba.conf
fi
echo "insert into local default values;" > /tmp/local.sql
(
  until pg_isready -q; do sleep 0.2; done
  psql -qc "create table if not exists local(n serial)" 2>/dev/null
  pgbench -n -c 1 -R 20 -T 100000 -f /tmp/local.sql >/dev/null
  exit 0
) &
exec postgres -h 0.0.0.0 -c shared_buffers=64MB -c restart_after_crash=on`;

const SUMS = `select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
  (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history),
  (select count(*) from pgbench_history), (select max(n) - count(*) from local)`;

describe("real programs, moved five times round three hosts under load", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
    await importImages(cluster, "postgres", "node", "java", "nginx");
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("PostgreSQL under pgbench: every transaction done, the sums right, also after a crash and a stop", async () => {
    await cluster.must(
      ...[
        "run",
        "--node",
        "n1",
        "--memory",
        "512m",
        "-u",
        "postgres",
        "-e",
        "PGDATA=/var/lib/postgresql/data",
      ],
      ...["--stop-signal", "SIGINT", "--stop-grace", "60s", "db", "postgres", "--", "sh", "-c", POSTGRES],
    );
    const { address } = await cluster.container("db");
    const generator = await GeneratorContainer.start(cluster, "postgres");
    const target = ["-h", address, "-U", "postgres", "postgres"];
    const serves = async (): Promise<boolean> =>
      (await generator.run("psql", "-Atc", "select max(n) from local", ...target)).stdout.trim() !== "";
    await until("PostgreSQL to serve", serves, 60_000);
    expect((await generator.run("pgbench", "-iq", "-s", "2", ...target)).code).toBe(0);
    const running = generator.run("pgbench", "-n", "-c", "4", "-R", "100", "-T", "150", ...target);
    const history = async (): Promise<number> =>
      Number((await generator.run("psql", "-Atc", "select count(*) from pgbench_history", ...target)).stdout);
    await until("transactions", async () => (await history()) > 50);
    await moveRound(cluster, "db");
    const moved = await history();
    await until("transactions after the moves", async () => (await history()) > moved + 50);
    // What ends its time.
    await generator.finish("pgbench", "ALRM");
    const { code, stdout, stderr } = await running;
    expect([code, stderr.replaceAll(/^pgbench \(.*\)\n/gm, "")]).toEqual([0, ""]);
    expect(stdout).toContain("number of failed transactions: 0 ");
    const done = /actually processed: (\d+)/.exec(stdout)?.[1] ?? "";
    process.stdout.write(`postgres: ${/lag: avg .*/.exec(stdout)?.[0]}\n`);
    const sums = async (): Promise<string[]> =>
      (await generator.run("psql", "-Atc", SUMS, ...target)).stdout.trim().split("|");
    const before = await sums();
    expect(before).toEqual([before[0], before[0], before[0], before[0], done, "0"]);
    expect(await logOf(cluster, "db")).not.toMatch(/ERROR|FATAL|PANIC|aborted/);

    // As if it had crashed: what it had promised is in its write-ahead log alone.
    await cluster.must("exec", "db", "--", "kill", "-QUIT", "1");
    await until(
      "PostgreSQL after its crash",
      async () => (await cluster.container("db")).restarts === 1 && (await serves()),
      60_000,
    );
    expect((await sums()).slice(0, 5)).toEqual(before.slice(0, 5));
    expect(await logOf(cluster, "db")).toContain("automatic recovery in progress");
    await cluster.must("stop", "db");
    expect(await logOf(cluster, "db")).toMatch(
      /received fast shutdown request[^]*database system is shut down/,
    );
    await cluster.must("start", "db");
    await until("PostgreSQL after its stop", serves, 60_000);
    expect((await sums()).slice(0, 5)).toEqual(before.slice(0, 5));
    expect(await logOf(cluster, "db")).toMatch(/Bad checksums:\s+0/);
    await generator.remove();
    await cluster.must("rm", "-f", "db");
  });

  test("a Node server: every connection kept, every answer right, its threads at work", async () => {
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "256m", "-u", "nobody", "js", "node", "--"],
      ...["node", "--input-type=module", "-e", workload("server.mjs")],
    );
    const { address } = await cluster.container("js");
    await until("the server to listen", async () => (await cluster.must("logs", "js")).includes("tick"));
    await using load = loadOn(cluster, "http", address, 8080, CONNECTIONS);
    expectWorkGoesOn(await moveUnderLoad(cluster, "js", load, CONNECTIONS));
    await expectEveryTick(cluster, "js");
    await cluster.must("rm", "-f", "js");
  });

  test("a Java server: every connection kept, every answer right, garbage collected", async () => {
    await cluster.must(
      ...[
        "run",
        "--node",
        "n1",
        "--memory",
        "512m",
        "-e",
        `PROGRAM=${workload("Server.java")}`,
        "jvm",
        "java",
        "--",
      ],
      ...["sh", "-c", 'echo "$PROGRAM" > /tmp/Server.java; exec java -Xmx128m /tmp/Server.java'],
    );
    const { address } = await cluster.container("jvm");
    await until(
      "the server to listen",
      async () => (await cluster.must("logs", "jvm")).includes("tick 20\n"),
      60_000,
    );
    await using load = loadOn(cluster, "http", address, 8080, CONNECTIONS);
    expectWorkGoesOn(await moveUnderLoad(cluster, "jvm", load, CONNECTIONS));
    await expectEveryTick(cluster, "jvm");
    await cluster.must("rm", "-f", "jvm");
  });

  test("nginx under wrk with a connection for each request: no socket error", async () => {
    const { address, generator } = await startNginx(cluster);
    const running = generator.run(
      ...["wrk", "-t", "1", "-c", "16", "-d", "150", "--timeout", "60", "-H", "Connection: close"],
      `http://${address}:80/`,
    );
    await moveRound(cluster, "web");
    await generator.finish("wrk", "INT");
    const { code, stdout } = await running;
    expect(code).toBe(0);
    expectAllAnswered(stdout);
    await generator.remove();
    await cluster.must("rm", "-f", "web");
  });
});

function expectWorkGoesOn(windows: readonly { readonly work?: number }[]): void {
  const work = windows.map((window) => window.work ?? 0);
  expect(work).toEqual(work.toSorted((a, b) => a - b));
  expect(work.at(-1)).toBeGreaterThan(work[0] ?? Number.POSITIVE_INFINITY);
}
