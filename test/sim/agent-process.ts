/** One run of an agent on a simulated host: the real loops and decisions, on a kernel in memory. */
import type { AgentConfig } from "../../agent/config.ts";
import type { Host } from "../../agent/host.ts";
import { Node } from "../../agent/node/node.ts";
import { Reporter } from "../../agent/node/reporter.ts";
import { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { SimCheckpoints } from "./checkpoints.ts";
import { context } from "./context.ts";
import { SimFence } from "./fence.ts";
import type { Machine } from "./machine.ts";
import { loggerOf } from "./logger.ts";
import { sleep } from "./replaced/timers.ts";
import { Process } from "./world.ts";

interface ExitTold {
  readonly container: string;
  readonly initPid: number;
  readonly code: number;
}

/** What the shim tells an agent, from the agent's start on. */
class ToldExits {
  readonly #told: ExitTold[] = [];
  #wake = Promise.withResolvers<void>();

  tell(exit: ExitTold): void {
    this.#told.push(exit);
    this.#wake.resolve();
  }
  async *[Symbol.asyncIterator](): AsyncGenerator<ExitTold> {
    for (;;) {
      const next = this.#told.shift();
      if (next !== undefined) {
        yield next;
        continue;
      }
      await this.#wake.promise;
      this.#wake = Promise.withResolvers();
    }
  }
}

const nothing = (): AsyncIterable<never> => ({
  [Symbol.asyncIterator]: () => ({ next: () => Promise.withResolvers<IteratorResult<never>>().promise }),
});

const done = async (): Promise<void> => {
  await Promise.resolve();
};

export const infoOf = (machine: Machine): NodeInfo =>
  NodeInfo.fromPartial({
    name: machine.name,
    cpuMillis: machine.cpuMillis,
    memoryBytes: machine.memoryBytes,
    underlayAddress: `10.1.0.${(machine.name.charCodeAt(machine.name.length - 1) % 200) + 1}`,
    kernel: "6.1.0",
    criuVersion: "4.2",
    streamKey: Buffer.alloc(32, machine.name.charCodeAt(machine.name.length - 1)),
  });

const hostOf = (machine: Machine, owner: Process, changed: () => void): Host => {
  const { bus, random, world } = context();
  const fence = new SimFence(machine, owner, changed);
  const exits = new ToldExits();
  machine.onExit = (container, initPid, code) => {
    world.after(1, owner, () => exits.tell({ container, initPid, code }));
  };
  const shim = {
    exits,
    shims: nothing(),
    status: async () => {
      await sleep(random.between(0, 2));
      return [...machine.exits].map(([container, { initPid, code }]) => ({
        container,
        initPid,
        exit: { code },
      }));
    },
    detach: done,
  };
  // One entry for each that the real one has: what is new there is missing here.
  const host: Record<keyof Host, unknown> = {
    config: { node: machine.name, stateDir: "/simulated", dataDir: "/simulated" } as AgentConfig,
    connection: bus.connect(owner).asNats(),
    logger: loggerOf(owner.name),
    fence,
    cgroups: { container: () => fence },
    criuPath: "/simulated",
    criuVersion: "4.2",
    shim,
    images: {
      list: async () => {
        await done();
        return [];
      },
    },
    checkpoints: new SimCheckpoints(machine, changed),
    held: { forget: done, keep: () => undefined, drop: () => undefined },
    ports: { catchUp: done, publish: done },
    identity: undefined,
    writeTracking: undefined,
    network: { ready: true, configure: done },
    costs: { learn: () => undefined },
    turns: undefined,
    runc: { adoptInit: done },
    exec: () => ({ quiesce: done, admit: () => undefined, isBusy: () => false, visit: done, command: done }),
  };
  return host as unknown as Host;
};

/** Starts an agent; its process is the machine's from now on. */
export const startAgent = (machine: Machine, skewMs: number): Process => {
  const { world } = context();
  const owner = new Process(machine.name, skewMs);
  machine.agent = owner;
  world.after(0, owner, () => {
    world.trace(`${machine.name} agent starts`);
    let wake = (): void => undefined;
    const host = hostOf(machine, owner, () => wake());
    const reporter = new Reporter(host, infoOf(machine), machine.bootedAs);
    wake = reporter.wake;
    const node = new Node(host, reporter.wake);
    node.start();
    reporter.start(node);
  });
  return owner;
};

export const killAgent = (machine: Machine): void => {
  const { bus, kernel, world } = context();
  const { agent } = machine;
  if (agent === undefined) return;
  world.trace(`${machine.name} agent dies`);
  world.crash(agent);
  bus.forget(agent);
  machine.agent = undefined;
  kernel.agentDied(machine);
};
