/**
 * A service and a world that does what the planner says: nodes that start and stop containers at once, and images that
 * behave as a test wants. What happens is noted down line by line.
 */
import {
  AllocationState,
  DesiredState,
  RolloutState,
  type Command,
  type Container,
  type Service,
} from "../../proto/gen/godwit/v1/log.ts";
import { ServiceSpec } from "../../proto/gen/godwit/v1/service.ts";
import { HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { command } from "../plan/command.ts";
import { PlannedDisruptions } from "../plan/disruption.ts";
import { planServices } from "../plan/services.ts";
import { isAvailable } from "../state/availability.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { Drive, idOf } from "./drive.ts";
import { digestOf } from "./sample.ts";

/** What a container of an image does once it is placed; by the value of its variable V. */
export type Behaviour = "works" | "crashes" | "is-ill" | "hangs";

export const webSpec = (
  value: string,
  rest: Parameters<typeof ServiceSpec.fromPartial>[0] = {},
): ServiceSpec =>
  ServiceSpec.fromPartial({
    name: "web",
    replicas: 3,
    ...rest,
    template: { image: "redis", imageDigest: digestOf("a"), env: { V: value }, ...rest.template },
  });

export class ServiceWorld {
  readonly drive: Drive;
  readonly trace: string[] = [];
  readonly behaviour = new Map<string, Behaviour>();
  /** How few were ever available while the service was wanted whole. */
  fewest = Infinity;
  /** What the times of the trace count from. */
  beganAtMs = 1_000;
  #ids = 0;

  constructor(...nodes: readonly string[]) {
    this.drive = new Drive(...(nodes.length === 0 ? ["n1", "n2", "n3"] : nodes));
  }

  get cluster(): Cluster {
    return this.drive.cluster;
  }
  get service(): Service {
    const service = this.cluster.state.services["web"];
    if (service === undefined) throw new Error("there is no service web");
    return service;
  }
  get containers(): Container[] {
    return Object.values(this.cluster.state.containers)
      .filter(({ service }) => service === "web")
      .sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  }
  get available(): number {
    return this.containers.filter((container) => isAvailable(this.cluster, container)).length;
  }
  /** "web-1:b web-2:b", with a mark for those that do no work. */
  get summary(): string {
    return this.containers
      .map((container) => {
        const mark = isAvailable(this.cluster, container) ? "" : "!";
        return `${nameOf(container)}:${container.spec?.env["V"] ?? ""}${mark}`;
      })
      .join(" ");
  }

  apply(spec: ServiceSpec): void {
    const expectedVersion = this.cluster.state.services[spec.name]?.version ?? 0;
    this.drive.must(command("servicesApplied", { services: [{ spec, expectedVersion }] }));
  }

  /** What the planner wants now, noted down and applied. */
  plan(): Command[] {
    const commands = planServices(this.cluster, {
      planned: new PlannedDisruptions(this.cluster),
      nowMs: this.drive.atMs,
      leaderSinceMs: 0,
      newId: () => idOf((this.#ids += 1)),
    });
    for (const one of commands) {
      const line = `${this.drive.atMs - this.beganAtMs}: ${this.#describe(one)}`;
      const outcome = this.drive.try(one);
      // Of a batch some may be too many, as they are for a real leader.
      if (outcome !== undefined && outcome.code !== "exhausted") throw new Error(outcome.message);
      this.trace.push(outcome === undefined ? line : `${line}, refused`);
    }
    this.#count();
    return commands;
  }

  /** Nodes take one step with each container: place, start, stop, remove. */
  act(): void {
    for (const container of this.containers) {
      const { allocation, id } = container;
      if (container.removing) this.drive.must(command("containerRemoved", { id }));
      else if (allocation === undefined) this.#place(container);
      else this.#run(container);
    }
    this.#count();
  }

  /** Goes on until nothing is left to do, a second a step. */
  settle(steps = 400): void {
    for (let step = 0; step < steps; step += 1) {
      const planned = this.plan();
      const before = this.#fingerprint();
      this.act();
      this.drive.atMs += 1_000;
      const isOver = this.service.rollout?.endedAtMs !== 0;
      if (planned.length === 0 && isOver && before === this.#fingerprint()) return;
    }
  }

  #fingerprint(): string {
    return JSON.stringify(
      this.containers.map(({ allocation, desired, removing }) => [allocation, desired, removing]),
    );
  }

  #count(): void {
    const service = this.cluster.state.services["web"];
    if (service === undefined || service.removing || service.stableRevision === 0) return;
    this.fewest = Math.min(this.fewest, this.available);
  }

  #place({ allocation, id }: Container): void {
    const nodes = Object.keys(this.cluster.state.nodes).sort();
    const count = (node: string): number => this.cluster.index.onNode.get(node)?.size ?? 0;
    const [node = "n1"] = nodes.toSorted((a, b) => count(a) - count(b));
    const epoch = (allocation?.epoch ?? 0) + 1;
    this.drive.must(command("allocationPlaced", { containerId: id, node, epoch }));
  }

  #run({ allocation, desired, id, spec }: Container): void {
    const observe = (state: AllocationState, exitCode: number, health: HealthState): void => {
      this.drive.must(
        command("allocationObserved", {
          containerId: id,
          node: allocation?.node ?? "",
          epoch: allocation?.epoch ?? 0,
          state,
          exitCode,
          restarts: 0,
          message: "",
          health,
        }),
      );
    };
    if (desired === DesiredState.STOPPED) {
      observe(AllocationState.EXITED, 143, HealthState.UNSPECIFIED);
      return;
    }
    switch (this.behaviour.get(spec?.env["V"] ?? "") ?? "works") {
      case "works":
        return observe(AllocationState.RUNNING, 0, HealthState.HEALTHY);
      case "crashes":
        return observe(AllocationState.EXITED, 1, HealthState.UNSPECIFIED);
      case "is-ill":
        return observe(AllocationState.RUNNING, 0, HealthState.UNHEALTHY);
      case "hangs":
        return observe(AllocationState.RUNNING, 0, HealthState.STARTING);
    }
  }

  #describe({ command: one }: Command): string {
    const nameById = (id: string): string => this.cluster.state.containers[id]?.spec?.name ?? id;
    switch (one?.$case) {
      case "serviceContainerCreated":
        return `create ${one.value.name} of r${one.value.revision}`;
      case "serviceContainerRetired":
        return `retire ${nameById(one.value.id)}`;
      case "serviceContainerAmended":
        return `amend ${nameById(one.value.id)}`;
      case "containerRemoveRequested":
        return `remove ${nameById(one.value.id)}`;
      case "serviceRolloutEnded":
        return one.value.failure === ""
          ? `r${one.value.revision} is out`
          : `r${one.value.revision} failed: ${one.value.failure}`;
      case "serviceRemoved":
        return "gone";
      default:
        return one?.$case ?? "nothing";
    }
  }
}

export const ENDED: ReadonlySet<RolloutState> = new Set([
  RolloutState.DONE,
  RolloutState.ROLLED_BACK,
  RolloutState.PAUSED,
]);
