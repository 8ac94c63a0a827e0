/** Drives the state machine without a log. */
import type { Command, Container } from "../../proto/gen/godwit/v1/log.ts";
import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState, MigrationMode, type ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { command } from "../plan/command.ts";
import { apply } from "../state/apply.ts";
import { emptyCluster, type Cluster } from "../state/cluster.ts";
import type { Outcome } from "../state/rejection.ts";
import { digestOf, sampleImage, sampleNode, sampleSpec } from "./sample.ts";

export const idOf = (number: number): string => number.toString(16).padStart(16, "0");

export class Drive {
  readonly cluster: Cluster = emptyCluster();
  atMs = 1_000;

  constructor(...nodes: readonly string[]) {
    this.epoch(1);
    this.must(command("imageAdded", { image: sampleImage() }));
    for (const name of nodes)
      this.must(command("nodeJoined", { info: sampleNode(name), incarnation: `i-${name}` }));
  }

  epoch(epoch: number): void {
    apply(this.cluster, command("leaderElected", { schedulerId: "s1", epoch }), { atMs: this.atMs, epoch });
  }
  try(one: Command, epoch = this.cluster.state.epoch): Outcome {
    return apply(this.cluster, one, { atMs: this.atMs, epoch });
  }
  must(one: Command): void {
    const outcome = this.try(one);
    if (outcome !== undefined) throw new Error(`${one.command?.$case}: ${outcome.message}`);
  }
  create(number: number, name: string, spec: Partial<ContainerSpec> = {}): Container {
    this.must(
      command("containerCreated", {
        id: idOf(number),
        spec: sampleSpec(name, { imageDigest: digestOf("a"), ...spec }),
      }),
    );
    return this.container(number);
  }
  place(number: number, node: string): void {
    const epoch = (this.container(number).allocation?.epoch ?? 0) + 1;
    this.must(command("allocationPlaced", { containerId: idOf(number), node, epoch }));
  }
  observe(
    number: number,
    state: AllocationState,
    exitCode = 0,
    health: HealthState = HealthState.UNSPECIFIED,
  ): void {
    const { node = "", epoch = 0 } = this.container(number).allocation ?? {};
    this.must(
      command("allocationObserved", {
        containerId: idOf(number),
        node,
        epoch,
        state,
        exitCode,
        restarts: 0,
        message: "",
        health,
      }),
    );
  }
  /** Created, placed and running. */
  run(number: number, name: string, node: string, spec: Partial<ContainerSpec> = {}): Container {
    this.create(number, name, spec);
    this.place(number, node);
    this.observe(number, AllocationState.RUNNING);
    return this.container(number);
  }
  startMove(
    migration: number,
    number: number,
    to: string,
    drainId = "",
    mode: MigrationMode = MigrationMode.AUTO,
  ): Outcome {
    const { node: from = "", epoch = 0 } = this.container(number).allocation ?? {};
    return this.try(
      command("migrationStarted", {
        id: idOf(migration),
        containerId: idOf(number),
        from,
        to,
        epoch: epoch + 1,
        mode,
        blackoutBudgetMs: 0,
        drainId,
        reason: "operator",
        bandwidthBytesPerSecond: 0,
      }),
    );
  }
  container(number: number): Container {
    const container = this.cluster.state.containers[idOf(number)];
    if (container === undefined) throw new Error(`there is no container ${number}`);
    return container;
  }
}
