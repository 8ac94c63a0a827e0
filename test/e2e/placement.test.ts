/** Where containers go, and why, as users see it: rules, ports that follow a move, quotas, and making room. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type ContainerRow, REDIS_COMMAND, TestCluster, until } from "./cluster.ts";

interface Plan {
  readonly node: string | null;
  readonly nodes: readonly { readonly node: string; readonly fits: boolean; readonly reasons: string[] }[];
  readonly reasons: readonly { readonly reason: string; readonly nodes: number }[];
  readonly preemption: readonly { readonly container: string; readonly to: string | null }[];
}

describe("placement", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(3);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  const SLEEP = ["--", "sleep", "100000"];
  const row = async (name: string): Promise<ContainerRow | undefined> =>
    (await cluster.json<ContainerRow[]>("ps")).find((one) => one.name === name);
  const remove = async (...names: string[]): Promise<void> => {
    await cluster.must("rm", "-f", ...names);
  };
  /** Says PING to a port of a host, from another host. */
  const ping = async (node: string, port: number): Promise<string> => {
    const address = cluster.dev.node(node).underlayAddress;
    const script = `exec 3<>/dev/tcp/${address}/${port} && printf 'PING\\r\\n' >&3 && timeout 5 head -c 5 <&3`;
    const from = node === "n2" ? "n3" : "n2";
    const { stdout, stderr } = await cluster.cli([
      ...["dev", "exec", "--data", cluster.dev.dataDir, from, "--"],
      ...["timeout", "10", "bash", "-c", script],
    ]);
    return stdout || stderr;
  };

  test("apart from each other, with a port of their hosts that goes with them", async () => {
    const rules = [
      "--label",
      "app=web",
      "--anti-affinity",
      "app=web",
      "--publish",
      "8080:6379",
      "--memory",
      "64m",
    ];
    for (const name of ["w1", "w2"])
      await cluster.must("run", ...rules, name, "redis", "--", ...REDIS_COMMAND);
    const [first, second] = [await row("w1"), await row("w2")];
    expect(first?.node).not.toBe(second?.node);
    const third = ["n1", "n2", "n3"].find((node) => node !== first?.node && node !== second?.node) ?? "";
    await cluster.must("node", "cordon", third);

    const refused = await cluster.cli(["run", "--dry-run", "-o", "json", ...rules, "w3", "redis"]);
    expect(refused.code).toBe(3);
    const plan = JSON.parse(refused.stdout) as Plan;
    expect(plan.node).toBeNull();
    expect(plan.reasons.map(({ nodes, reason }) => `${nodes} ${reason}`)).toEqual(
      [
        "2 have a container with app=web (anti-affinity)",
        "2 have a container that must not be beside app=web",
        "2 have their port 8080/tcp taken",
        "1 cordoned",
      ].toSorted((a, b) => Number(b[0]) - Number(a[0]) || (a.slice(2) < b.slice(2) ? -1 : 1)),
    );
    await cluster.must("node", "uncordon", third);

    await until("the port to lead to the container", async () =>
      /\+PONG/.test(await ping(first?.node ?? "", 8080)),
    );
    await cluster.must("move", "w1", third);
    await until("the port to have followed it", async () => /\+PONG/.test(await ping(third, 8080)));
    await until("it to be gone from where it was", async () =>
      /refused/.test(await ping(first?.node ?? "", 8080)),
    );
    expect((await cluster.cli(["move", "w2", third])).code).toBe(3);
    await remove("w1", "w2");
  });

  test("labels of nodes, company, and who may have how much", async () => {
    await cluster.must("node", "label", "n2", "zone=a", "tier=old");
    await cluster.must("node", "label", "n2", "tier-");
    const nodes = await cluster.json<{ name: string; labels: object; pressure: object | null }[]>(
      "node",
      "ls",
    );
    expect(nodes.find(({ name }) => name === "n2")?.labels).toEqual({ zone: "a" });

    const flags = ["--memory", "64m", "--project", "team"];
    await cluster.must("project", "set", "team", "--memory", "150m");
    await cluster.must(
      "run",
      ...flags,
      "--constraint",
      "zone=a",
      "--label",
      "app=db",
      "db",
      "redis",
      ...SLEEP,
    );
    await cluster.must("run", ...flags, "--affinity", "app=db", "beside", "redis", ...SLEEP);
    expect([(await row("db"))?.node, (await row("beside"))?.node]).toEqual(["n2", "n2"]);
    const over = await cluster.cli(["run", ...flags, "more", "redis", ...SLEEP]);
    expect(over).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/project team may have 150 MiB of memory/),
    });
    const projects = await cluster.json<{ name: string; used: { containers: number } }[]>("project", "ls");
    expect(projects.find(({ name }) => name === "team")?.used.containers).toBe(2);
    await remove("db", "beside");
  });

  test("room is made by a live move, or by a stop where that is allowed, and given back", async () => {
    const nodes = await cluster.json<{ memoryBytes: number }[]>("node", "ls");
    const part = (percent: number): string =>
      String(Math.floor((Math.min(...nodes.map(({ memoryBytes }) => memoryBytes)) * percent) / 100));
    const run = (name: string, percent: number, ...rest: string[]) =>
      cluster.must("run", "--memory", part(percent), ...rest, name, "redis", "--", ...REDIS_COMMAND);
    await run("a", 40, "--node", "n1");
    await run("b", 40, "--node", "n2");
    await run("c", 70, "--node", "n3", "--preemption", "never");
    await run("urgent", 90, "--priority", "10");
    const urgent = await row("urgent");
    expect(["n1", "n2"]).toContain(urgent?.node);
    const other = urgent?.node === "n1" ? "n2" : "n1";
    expect([(await row("a"))?.node, (await row("b"))?.node]).toEqual([other, other]);
    const [move] = await cluster.json<{ reason: string; state: string }[]>("migrations");
    expect(move).toMatchObject({ reason: "preemption", state: "finished" });

    // Now nothing can be moved anywhere, and only one that agrees to be stopped may go.
    await remove("a", "b");
    await run("spare", 80, "--node", other, "--preemption", "stop");
    const asked = ["run", "--dry-run", "--memory", part(80), "--priority", "5", "second", "redis"];
    const plan = await cluster.json<Plan>(...asked);
    expect(plan.preemption).toMatchObject([{ container: "spare", to: null }]);
    await run("second", 80, "--priority", "5");
    expect((await row("second"))?.node).toBe(other);
    expect((await row("spare"))?.state).toBe("pending");
    expect(await cluster.must("why", "spare")).toMatch(/to make room for second \(priority 5\)/);
    await remove("second");
    await until("it to run again", async () => (await row("spare"))?.state === "running");
    expect(await row("spare")).toMatchObject({ node: other, epoch: 2 });
  });
});
