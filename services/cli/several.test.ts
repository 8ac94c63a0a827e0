/** The command with several schedulers, of which one leads. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startScheduler, type Scheduler } from "../../scheduler/mod.ts";
import { NatsServer } from "../../scheduler/testing/nats-server.ts";
import { sampleImage } from "../../scheduler/testing/sample.ts";
import { SimulatedAgent } from "../../scheduler/testing/simulated-agent.ts";
import { LayerStore } from "../api/image/layer-store.ts";
import { startApi } from "../api/server.ts";
import { runCommand, type CommandResult } from "./testing/run-command.ts";

const silent = pino({ level: "silent" });
const stack = new AsyncDisposableStack();
const schedulers: Scheduler[] = [];
/** Of each scheduler with its API. */
const processes: AsyncDisposableStack[] = [];
const addresses: string[] = [];

async function start(nats: NatsServer, folder: string, id: string): Promise<void> {
  const own = stack.use(new AsyncDisposableStack());
  const connection = await nats.connect();
  own.defer(() => connection.close());
  const path = join(folder, `${id}.sock`);
  const scheduler = own.use(
    await startScheduler({
      connection,
      settings: nats.settings,
      id,
      logger: silent,
      addresses: [`unix:${path}`],
    }),
  );
  own.use(
    await startApi({
      scheduler,
      connection,
      layers: await LayerStore.open(connection, 1),
      logger: silent,
      listen: [{ kind: "unix", path }],
      dataDir: join(folder, id),
      maxImageBytes: 2 ** 30,
      version: "1.2.3",
    }),
  );
  schedulers.push(scheduler);
  processes.push(own);
  addresses.push(`unix:${path}`);
}

beforeAll(async () => {
  const nats = stack.use(await NatsServer.start());
  const folder = await mkdtemp(join(tmpdir(), "godwit-several-"));
  stack.defer(() => rm(folder, { recursive: true }));
  for (const id of ["s1", "s2", "s3"]) await start(nats, folder, id);
  stack.use(await SimulatedAgent.start(nats.url, "n1"));
  await schedulers[0]?.addImage(sampleImage());
});
afterAll(async () => {
  await stack.disposeAsync();
});

const godwit = (api: string, ...args: string[]): Promise<CommandResult> =>
  runCommand(["--api", api, ...args], { timeoutMs: 40_000 });

test("one that stands by leads to the one that leads, and the next leader is found when that ends", async () => {
  const [first = "", second = "", third = ""] = addresses;
  expect(await godwit(third, "run", "web", "redis")).toMatchObject({ code: 0, stderr: "" });
  expect((await godwit(second, "ps")).stdout).toMatch(/^web /m);
  const status = JSON.parse((await godwit(`${second},${third}`, "status", "-o", "json")).stdout) as object;
  expect(status).toMatchObject({
    leader: "s1",
    answeredBy: "s1",
    schedulers: [
      { id: "s1", role: "leader", addresses: [first] },
      { id: "s2", role: "standby" },
      { id: "s3", role: "standby" },
    ],
  });

  const running = godwit(addresses.join(), "run", "next", "redis");
  await processes[0]?.disposeAsync();
  expect(await running).toMatchObject({ code: 0, stderr: "" });
  expect(await godwit(addresses.join(), "node", "cordon", "n1")).toMatchObject({ code: 0, stderr: "" });
  const leaders = schedulers.filter((one) => one.leads);
  expect(leaders).toHaveLength(1);
  const names = Object.values(leaders[0]?.state().containers ?? {}).map(({ spec }) => spec?.name ?? "");
  expect(names.sort()).toEqual(["next", "web"]);
});
