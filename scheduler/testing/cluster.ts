/** A nats-server, schedulers and simulated agents for one test, all stopped with it. */
import type { NatsConnection } from "@nats-io/transport-node";
import { AllocationState, NodeState, type Migration, type NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, type ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { startScheduler, type Scheduler, type SchedulerOptions } from "../mod.ts";
import { eventually } from "./eventually.ts";
import { NatsServer } from "./nats-server.ts";
import { sampleImage, sampleSpec, silent } from "./sample.ts";
import { SimulatedAgent, type AgentScript } from "./simulated-agent.ts";

export class TestCluster implements AsyncDisposable {
  readonly server: NatsServer;
  readonly #stack = new AsyncDisposableStack();

  private constructor(server: NatsServer) {
    this.server = this.#stack.use(server);
  }
  static async start(): Promise<TestCluster> {
    return new TestCluster(await NatsServer.start());
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  async connect(): Promise<NatsConnection> {
    const connection = await this.server.connect();
    this.#stack.defer(() => connection.close());
    return connection;
  }
  async scheduler(id = "s1", options: Partial<SchedulerOptions> = {}): Promise<Scheduler> {
    const connection = options.connection ?? (await this.connect());
    return this.#stack.use(
      await startScheduler({ id, logger: silent, settings: this.server.settings, ...options, connection }),
    );
  }
  async agent(
    name: string,
    options: { script?: AgentScript; incarnation?: string; info?: Partial<NodeInfo> } = {},
  ): Promise<SimulatedAgent> {
    return this.#stack.use(await SimulatedAgent.start(this.server.url, name, options));
  }
  /** A scheduler that knows an image, and nodes n1… that are ready. */
  async up(
    nodes: number,
    options: Partial<SchedulerOptions> = {},
  ): Promise<{ s: Scheduler; agents: SimulatedAgent[] }> {
    const s = await this.scheduler("s1", options);
    const agents: SimulatedAgent[] = [];
    for (let at = 1; at <= nodes; at += 1) agents.push(await this.agent(`n${at}`));
    await s.addImage(sampleImage());
    await ready(s, ...agents.map((agent) => agent.info.name));
    return { s, agents };
  }
}

export const ready = (s: Scheduler, ...names: string[]): Promise<void> =>
  eventually(`nodes ${names.join()} to be ready`, () =>
    names.every((name) => s.state().nodes[name]?.state === NodeState.READY),
  );
export const stateOf = (s: Scheduler, id: string): AllocationState | undefined =>
  s.state().containers[id]?.allocation?.state;
export const running = (s: Scheduler, id: string): Promise<void> =>
  eventually(`container ${id} to run`, () => stateOf(s, id) === AllocationState.RUNNING);
export const ended = async (s: Scheduler, id: string): Promise<Migration> => {
  await eventually(`migration ${id} to end`, () => (s.state().migrations[id]?.endedAtMs ?? 0) > 0);
  return s.state().migrations[id] as Migration;
};
export const move = (s: Scheduler, containerId: string, to?: string): Promise<Migration> =>
  s.startMigration({
    containerId,
    mode: MigrationMode.AUTO,
    blackoutBudgetMs: 0,
    reason: "operator",
    ...(to === undefined ? {} : { to }),
  });
export const runOn = async (
  s: Scheduler,
  name: string,
  node: string,
  spec: Partial<ContainerSpec> = {},
): Promise<string> => {
  const { id } = await s.createContainer(sampleSpec(name, { node, ...spec }));
  await running(s, id);
  return id;
};
