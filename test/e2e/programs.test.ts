/** Real programs under load, moved live. Heavier ones: test/programs, `npm run test:programs`. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { expectAllAnswered, readAccessLog, startNginx } from "../programs/nginx.ts";
import {
  expectEveryTick,
  importImages,
  loadOn,
  logOf,
  moveRound,
  moveUnderLoad,
  workload,
} from "../programs/program.ts";
import { TestCluster, until } from "./cluster.ts";

const CONNECTIONS = 8;

describe("real programs, moved five times round three hosts under load", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
    await importImages(cluster, "memcached", "nginx", "python");
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  test("memcached: every connection kept, every key right", async () => {
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "128m", "-u", "memcache", "mc", "memcached", "--"],
      ...["memcached", "-m", "64", "-t", "4"],
    );
    const { address } = await cluster.container("mc");
    await using load = loadOn(cluster, "memcached", address, 11211, CONNECTIONS);
    expect(await moveUnderLoad(cluster, "mc", load, CONNECTIONS)).toHaveLength(5);
    await cluster.must("rm", "-f", "mc");
  });

  test("a Python server of forked workers: every connection kept, every answer right", async () => {
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "256m", "-u", "nobody", "py", "python", "--"],
      ...["python3", "-c", workload("server.py")],
    );
    const { address } = await cluster.container("py");
    await using load = loadOn(cluster, "http", address, 8080, CONNECTIONS);
    await moveUnderLoad(cluster, "py", load, CONNECTIONS);
    await expectEveryTick(cluster, "py");
    await cluster.must("rm", "-f", "py");
  });

  test("nginx under wrk with keep-alive: no socket error, no connection opened again", async () => {
    const { address, generator } = await startNginx(cluster);
    const running = generator.run(
      ...["wrk", "-t", "1", "-c", "16", "-d", "150", "--timeout", "60"],
      `http://${address}:80/`,
    );
    await until("nginx to be under load", async () => (await readAccessLog(cluster)).connections === 16);
    await moveRound(cluster, "web");
    await generator.finish("wrk", "INT");
    const { code, stdout } = await running;
    expect(code).toBe(0);
    const answered = expectAllAnswered(stdout);
    const { connections, requests, breaks } = await readAccessLog(cluster);
    expect({ connections, breaks }).toEqual({ connections: 16, breaks: 0 });
    // The last one of each connection may have been on its way when wrk ended.
    expect(requests).toBeGreaterThanOrEqual(answered);
    expect(requests).toBeLessThanOrEqual(answered + 16);
    await cluster.must("stop", "web");
    expect(await logOf(cluster, "web")).toMatch(/signal 3 \(SIGQUIT\).*shutting down/);
    await generator.remove();
    await cluster.must("rm", "-f", "web");
  });
});
