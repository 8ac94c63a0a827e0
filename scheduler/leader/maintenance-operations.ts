/** Drains and returns as the API asks for them: checked for a clear error, then proposed; `apply` has the last word. */
import { GodwitError } from "../../proto/contract/error.ts";
import { NodeState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { idFrom, type Machine } from "../log/machine.ts";
import type { DrainOptions, DrainProgress, Maintenance, ReturnOptions } from "../maintenance.ts";
import { command } from "../plan/command.ts";
import type { Seen } from "../plan/movable.ts";
import { MOVES_PER_LINK } from "../plan/move-limits.ts";
import type { Cluster } from "../state/cluster.ts";
import type { Outcome } from "../state/rejection.ts";
import { asRequested, isRequestDone } from "./request.ts";
import { drainProgressOf, plannedDrain, plannedReturn, returnProgressOf } from "./drain-progress.ts";

const DEFAULT_PARALLEL = 2;
const MAX_PARALLEL = 64;
/** A plan of more is kept to as far as this. */
const MAX_PLANNED = 2_000;

const atATime = (asked: number, usual: number): number => Math.min(MAX_PARALLEL, asked === 0 ? usual : asked);

export interface MaintenanceMeans {
  readonly cluster: Cluster;
  readonly propose: (command: Command) => Promise<Outcome>;
  readonly seen: () => Seen;
  readonly machine: Machine;
}

export class MaintenanceOperations implements Maintenance {
  readonly #means: MaintenanceMeans;

  constructor(means: MaintenanceMeans) {
    this.#means = means;
  }

  planDrain(node: string, options: Partial<Pick<DrainOptions, "deadlineMs" | "force">> = {}): DrainProgress {
    this.#checkNode(node);
    const { cluster, machine, seen } = this.#means;
    const { deadlineMs = 0, force = false } = options;
    return plannedDrain(cluster, seen(), node, { deadlineMs, force, nowMs: machine.nowMs() });
  }

  async startDrain(options: DrainOptions): Promise<void> {
    const { deadlineMs, evacuate, force, node, parallel, perLink = 0, plan } = options;
    if (isRequestDone(this.#means.cluster)) return;
    this.#checkReports(node, "nothing can be moved off it until it reports again");
    if (deadlineMs < 0 || !Number.isSafeInteger(deadlineMs))
      throw new GodwitError("invalid", `${deadlineMs} ms is no deadline`);
    await this.#propose(
      command("drainStarted", {
        node,
        deadlineMs: deadlineMs === 0 ? 0 : this.#means.machine.nowMs() + deadlineMs,
        parallel: atATime(parallel, DEFAULT_PARALLEL),
        drainId: idFrom(this.#means.machine),
        force,
        perLink: atATime(perLink, MOVES_PER_LINK),
        ...(evacuate === true ? { evacuate } : {}),
        ...(plan === undefined || plan.length === 0
          ? {}
          : {
              plan: { moves: plan.slice(0, MAX_PLANNED).map(({ containerId, to }) => ({ containerId, to })) },
            }),
      }),
    );
  }

  async cancelDrain(node: string): Promise<void> {
    this.#checkNode(node);
    if (isRequestDone(this.#means.cluster)) return;
    const drain = this.#means.cluster.state.nodes[node]?.drain;
    if (drain?.outcome !== "") throw new GodwitError("refused", `node ${node} is not being drained`);
    await this.#propose(command("drainEnded", { node, drainId: drain.id, outcome: "cancelled" }));
  }

  drainProgress(node: string): DrainProgress | undefined {
    const { cluster, machine, seen } = this.#means;
    return drainProgressOf(cluster, seen(), node, machine.nowMs());
  }

  planReturn(node: string): DrainProgress {
    this.#checkNode(node);
    return plannedReturn(this.#means.cluster, this.#means.seen(), node);
  }

  async startReturn({ node, parallel, perLink }: ReturnOptions): Promise<void> {
    if (isRequestDone(this.#means.cluster)) return;
    this.#checkReports(node, "nothing can be moved to it until it reports again");
    await this.#propose(
      command("returnStarted", {
        node,
        returnId: idFrom(this.#means.machine),
        parallel: atATime(parallel, DEFAULT_PARALLEL),
        perLink: atATime(perLink, MOVES_PER_LINK),
      }),
    );
  }

  async cancelReturn(node: string): Promise<void> {
    this.#checkNode(node);
    if (isRequestDone(this.#means.cluster)) return;
    const back = this.#means.cluster.state.nodes[node]?.return;
    if (back?.outcome !== "")
      throw new GodwitError("refused", `node ${node} is not getting its containers back`);
    await this.#propose(command("returnEnded", { node, returnId: back.id, outcome: "cancelled" }));
  }

  returnProgress(node: string): DrainProgress | undefined {
    const { cluster, machine, seen } = this.#means;
    return returnProgressOf(cluster, seen(), node, machine.nowMs());
  }

  #checkNode(name: string): void {
    if (this.#means.cluster.state.nodes[name] === undefined)
      throw new GodwitError("not-found", `there is no node ${name}: "godwit node ls" lists them`);
  }
  #checkReports(name: string, why: string): void {
    this.#checkNode(name);
    if (this.#means.cluster.state.nodes[name]?.state === NodeState.LOST)
      throw new GodwitError("refused", `node ${name} is lost: ${why}`);
  }
  async #propose(proposed: Command): Promise<void> {
    const outcome = await this.#means.propose(asRequested(proposed));
    if (outcome !== undefined) throw new GodwitError(outcome.code, outcome.message);
  }
}
