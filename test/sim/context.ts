/** What the replaced parts of an agent find the simulated hosts by; one simulation at a time in a thread. */
import type { Bus } from "./bus.ts";
import type { Conditions } from "./conditions.ts";
import type { Kernel } from "./kernel.ts";
import type { Machine } from "./machine.ts";
import type { PageSessions } from "./page-sessions.ts";
import type { Random } from "./random.ts";
import type { StreamHub } from "./stream-hub.ts";
import type { World } from "./world.ts";

export interface Context {
  readonly world: World;
  readonly conditions: Conditions;
  readonly bus: Bus;
  readonly kernel: Kernel;
  readonly hub: StreamHub;
  readonly sessions: PageSessions;
  /** Of what happens on hosts. */
  readonly random: Random;
}

let current: Context | undefined;

export const enter = (context: Context): void => {
  current = context;
};
export const context = (): Context => {
  if (current === undefined) throw new Error("no simulation is running in this thread");
  return current;
};

export const machineOf = (host: { readonly config: { readonly node: string } }): Machine => {
  const machine = context().kernel.machines.get(host.config.node);
  if (machine === undefined) throw new Error(`there is no machine ${host.config.node}`);
  return machine;
};

/** Whether the agent of the machine can be spoken to over NATS. */
export const isReachable = (machine: Machine): boolean => {
  const { agent } = machine;
  if (agent === undefined || !agent.alive || agent.paused !== undefined) return false;
  return context().bus.of(agent)?.link.cut === false;
};
