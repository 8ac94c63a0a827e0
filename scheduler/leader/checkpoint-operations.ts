/** What the API asks for about checkpoints. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { Checkpoint } from "../../proto/gen/godwit/v1/checkpoint.ts";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import { idFrom, type Machine } from "../log/machine.ts";
import { startCheckpoint } from "../plan/checkpoints.ts";
import { command } from "../plan/command.ts";
import type { Volatile } from "../plan/volatile.ts";
import type { CheckpointOperations } from "../public-checkpoints.ts";
import { restoreCheck } from "../state/apply-checkpoint.ts";
import { nameOf, nextEpoch, type Cluster } from "../state/cluster.ts";
import type { Outcome } from "../state/rejection.ts";
import { asRequested, isRequestDone, takeRequestId } from "./request.ts";

const allow = (outcome: Outcome): void => {
  if (outcome !== undefined) throw new GodwitError(outcome.code, outcome.message);
};

export class Checkpoints implements CheckpointOperations {
  readonly #cluster: Cluster;
  readonly #propose: (command: Command) => Promise<Outcome>;
  readonly #machine: Machine;
  readonly #seen: () => Pick<Volatile, "nodes">;

  constructor(
    cluster: Cluster,
    propose: (command: Command) => Promise<Outcome>,
    machine: Machine,
    seen: () => Pick<Volatile, "nodes">,
  ) {
    this.#cluster = cluster;
    this.#propose = propose;
    this.#machine = machine;
    this.#seen = seen;
  }

  async createCheckpoint(containerId: string): Promise<string> {
    const container = this.#cluster.state.containers[containerId];
    if (container === undefined) throw new GodwitError("not-found", `there is no container ${containerId}`);
    const request = takeRequestId();
    if (request !== undefined && this.#cluster.index.requests.has(request)) return request;
    const started = startCheckpoint(this.#cluster, this.#seen(), container, "operator", {
      newId: () => request ?? idFrom(this.#machine),
      newKey: () => Buffer.from(this.#machine.randomHex(32), "hex"),
    });
    if (started?.command?.$case !== "checkpointStarted")
      throw new GodwitError(
        "exhausted",
        `no node can keep a checkpoint of ${nameOf(container)}: it takes another one than its own that is ready`,
      );
    allow(await this.#propose(request === undefined ? started : { ...started, requestId: request }));
    return started.command.value.id;
  }

  async restoreCheckpoint(id: string, node?: string): Promise<string> {
    const { containerId, keepers } = this.#find(id);
    // What it was restored by is where it is, or has been since.
    if (isRequestDone(this.#cluster))
      return this.#cluster.state.containers[containerId]?.allocation?.node ?? "";
    const refusals: Outcome[] = [];
    const to = (node === undefined ? keepers : [node]).find((keeper) => {
      const refused = restoreCheck(this.#cluster, containerId, id, keeper);
      refusals.push(refused);
      return refused === undefined;
    });
    if (to === undefined) allow(refusals[0]);
    const container = this.#cluster.state.containers[containerId];
    const epoch = container === undefined ? 1 : nextEpoch(container);
    allow(
      await this.#propose(
        asRequested(command("containerRestored", { containerId, checkpointId: id, node: to ?? "", epoch })),
      ),
    );
    return to ?? "";
  }

  async removeCheckpoint(id: string): Promise<void> {
    this.#find(id);
    allow(await this.#propose(asRequested(command("checkpointRemoved", { id }))));
  }

  #find(id: string): Checkpoint {
    const checkpoint = this.#cluster.state.checkpoints[id];
    if (checkpoint === undefined || checkpoint.superseded)
      throw new GodwitError("not-found", `there is no checkpoint ${id}: "godwit checkpoint ls" lists them`);
    return checkpoint;
  }
}
