/** What the API asks for: checked against the state for a clear error, then proposed; `apply` has the last word. */
import { GodwitError } from "../../proto/contract/error.ts";
import { isName } from "../../proto/contract/ids.ts";
import {
  AllocationState,
  Container,
  DesiredState,
  Migration,
  NodeState,
  type Command,
} from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec, type Image } from "../../proto/gen/godwit/v1/spec.ts";
import { formatBytes, formatCpus } from "../model/quantity.ts";
import { checkedForecast } from "../model/forecast-check.ts";
import { checkImage, checkSpec } from "../model/spec-check.ts";
import { command } from "../plan/command.ts";
import { chooseTarget, stayCheck, targetRefusals, type Seen } from "../plan/movable.ts";
import type { MovePlan, MoveRequest, NodeRemoval } from "../public.ts";
import { NODE_PIDS } from "../state/capacity.ts";
import { isHeldBySource, isLostWithSource } from "../state/apply-migration.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { resolveMode } from "../state/move-check.ts";
import type { Outcome } from "../state/rejection.ts";
import { idFrom, type Machine } from "../log/machine.ts";
import { takeRequestId } from "./request.ts";

/** Throws what a rejection says. */
const allow = (outcome: Outcome): void => {
  if (outcome !== undefined) throw new GodwitError(outcome.code, outcome.message);
};

/** Nodes that have containers are asked first: mostly one of them will do, and of very many only that one is looked at. */
const hasRoomSomewhere = ({ index, state }: Cluster, { limits }: ContainerSpec): boolean => {
  if (limits === undefined) return true;
  const { cpuMillis, memoryBytes, pids } = limits;
  if (pids > NODE_PIDS) return false;
  const isLargeEnough = (name: string): boolean => {
    const info = state.nodes[name]?.info;
    return info !== undefined && info.memoryBytes >= memoryBytes && info.cpuMillis >= cpuMillis;
  };
  for (const name of index.onNode.keys()) if (isLargeEnough(name)) return true;
  return Object.keys(state.nodes).some(isLargeEnough);
};

export class Operations {
  readonly #cluster: Cluster;
  readonly #proposeCommand: (command: Command) => Promise<Outcome>;
  readonly #machine: Machine;
  readonly #seen: () => Seen;

  constructor(
    cluster: Cluster,
    propose: (command: Command) => Promise<Outcome>,
    machine: Machine,
    seen: () => Seen,
  ) {
    this.#seen = seen;
    this.#cluster = cluster;
    this.#proposeCommand = propose;
    this.#machine = machine;
  }

  async #propose(proposed: Command, requestId = takeRequestId()): Promise<void> {
    allow(await this.#proposeCommand(requestId === undefined ? proposed : { ...proposed, requestId }));
  }
  #container(id: string): Container {
    const container = this.#cluster.state.containers[id];
    if (container === undefined) throw new GodwitError("not-found", `there is no container ${id}`);
    return container;
  }

  async addImage(image: Image): Promise<void> {
    checkImage(image);
    await this.#propose(command("imageAdded", { image }));
  }
  async removeImage(name: string): Promise<void> {
    await this.#propose(command("imageRemoved", { name }));
  }

  async createContainer(given: ContainerSpec): Promise<Pick<Container, "id">> {
    checkSpec(given);
    const { state, index } = this.#cluster;
    const request = takeRequestId();
    const id = request ?? idFrom(this.#machine);
    if (state.containers[id]?.spec?.name === given.name) return { id };
    if (index.requests.has(id))
      throw new GodwitError("not-found", `${given.name} was created by this request and is removed again`);
    const image = state.images[given.image];
    if (image === undefined)
      throw new GodwitError(
        "not-found",
        `there is no image ${given.image}: import it first ("godwit image import")`,
      );
    if (index.idByName.has(given.name))
      throw new GodwitError(
        "exists",
        `there is a container named ${given.name} already: remove it or choose another name`,
      );
    this.#checkEverFits(given);
    const spec: ContainerSpec = { ...given, imageDigest: image.digest };
    await this.#propose(command("containerCreated", { id, spec }), request);
    return { id };
  }

  /** Waiting for room helps only if there can ever be enough of it. */
  #checkEverFits(spec: ContainerSpec): void {
    const { nodes } = this.#cluster.state;
    if (spec.node !== "" && nodes[spec.node] === undefined)
      throw new GodwitError("not-found", `there is no node ${spec.node}: "godwit node ls" lists them`);
    if (spec.node === "" && hasRoomSomewhere(this.#cluster, spec)) return;
    const candidates = Object.values(nodes).filter(
      (node) => spec.node === "" || node.info?.name === spec.node,
    );
    if (candidates.length === 0 || spec.limits === undefined) return;
    const where = spec.node === "" ? "any node has" : `node ${spec.node} has`;
    const most = (of: (node: (typeof candidates)[number]) => number): number =>
      Math.max(...candidates.map(of));
    const { memoryBytes, cpuMillis, pids } = spec.limits;
    const memory = most((node) => node.info?.memoryBytes ?? 0);
    if (memoryBytes > memory)
      throw new GodwitError(
        "exhausted",
        `${formatBytes(memoryBytes)} of memory is more than ${where} (${formatBytes(memory)})`,
      );
    const cpus = most((node) => node.info?.cpuMillis ?? 0);
    if (cpuMillis > cpus)
      throw new GodwitError(
        "exhausted",
        `${formatCpus(cpuMillis)} is more than ${where} (${formatCpus(cpus)})`,
      );
    if (pids > NODE_PIDS)
      throw new GodwitError("exhausted", `${pids} pids is more than ${where} (${NODE_PIDS})`);
  }

  async setDesired(id: string, action: "start" | "stop" | "restart"): Promise<void> {
    const container = this.#container(id);
    const { desired, restartGeneration } = container;
    if (action === "stop") {
      await this.#propose(
        command("containerDesiredSet", { id, desired: DesiredState.STOPPED, restartGeneration }),
      );
      return;
    }
    const state = container.allocation?.state;
    const over = state === AllocationState.EXITED || state === AllocationState.FAILED;
    if (action === "start" && desired === DesiredState.RUNNING && !over && !container.removing) return;
    // An agent cannot tell a container that may start again from one whose restart policy let it end, so it is told.
    const next = restartGeneration + 1;
    await this.#propose(
      command("containerDesiredSet", { id, desired: DesiredState.RUNNING, restartGeneration: next }),
    );
  }

  async removeContainer(id: string, force: boolean): Promise<void> {
    await this.#propose(command("containerRemoveRequested", { id, force }));
  }

  planMove(request: MoveRequest): MovePlan {
    const container = this.#container(request.containerId);
    const terms = {
      blackoutBudgetMs: request.blackoutBudgetMs || (container.spec?.blackoutBudgetMs ?? 0),
      bandwidthBytesPerSecond: request.bandwidthBytesPerSecond ?? 0,
    };
    const seen = this.#seen();
    const from = container.allocation?.node ?? "";
    const mode = resolveMode(request.mode, container.spec?.migration);
    if (mode === undefined)
      throw new GodwitError(
        "refused",
        "this migration mode is not supported yet: use auto, precopy, checkpoint or cold",
      );
    allow(stayCheck(this.#cluster, seen, container, false, mode));
    if (request.to !== undefined) {
      allow(targetRefusals(this.#cluster, seen, container, request.to, mode)[0]);
      return { from, to: request.to, mode, ...terms };
    }
    const placement = chooseTarget(this.#cluster, seen, container, { mode });
    if (placement.node === undefined)
      throw new GodwitError("exhausted", `${nameOf(container)} cannot be moved: ${placement.failure}`);
    return { from, to: placement.node, mode, ...terms };
  }

  async startMigration(order: MoveRequest): Promise<Migration> {
    const request = takeRequestId();
    const id = request ?? idFrom(this.#machine);
    const known = this.#cluster.state.migrations[id];
    if (known !== undefined) return Migration.fromPartial(known);
    const { from, to, mode, blackoutBudgetMs, bandwidthBytesPerSecond } = this.planMove(order);
    const container = this.#container(order.containerId);
    await this.#propose(
      command("migrationStarted", {
        id,
        containerId: order.containerId,
        from,
        to,
        epoch: (container.allocation?.epoch ?? 0) + 1,
        mode,
        blackoutBudgetMs,
        drainId: "",
        reason: order.reason,
        bandwidthBytesPerSecond,
        ...(order.predicted === undefined ? {} : { predicted: checkedForecast(order.predicted) }),
      }),
      request,
    );
    const migration = this.#cluster.state.migrations[id];
    if (migration === undefined)
      throw new GodwitError("internal", `migration ${id} was recorded and is not there`);
    return Migration.fromPartial(migration);
  }

  async cancelMigration(id: string): Promise<void> {
    await this.#propose(command("migrationCancelRequested", { id }));
  }

  #checkNode(node: string): void {
    if (!isName(node) || this.#cluster.state.nodes[node] === undefined)
      throw new GodwitError("not-found", `there is no node ${node}: "godwit node ls" lists them`);
  }

  async trustNodeKey(node: string, key: Uint8Array): Promise<void> {
    this.#checkNode(node);
    await this.#propose(command("nodeKeyTrusted", { node, key: Buffer.from(key) }));
  }

  async setSchedulable(node: string, schedulable: boolean): Promise<void> {
    this.#checkNode(node);
    await this.#propose(command("nodeSchedulableSet", { node, schedulable }));
  }

  async removeNode(name: string, isOff: boolean): Promise<NodeRemoval> {
    this.#checkNode(name);
    const { index, state } = this.#cluster;
    if (state.nodes[name]?.state !== NodeState.LOST)
      throw new GodwitError(
        "refused",
        `node ${name} reports, and would join again at once: stop its agent and wait until it is lost`,
      );
    const held = [...(index.onNode.get(name) ?? [])].flatMap((id) => state.containers[id] ?? []);
    const isReturned = ({ migrationId }: Container): boolean => {
      const migration = state.migrations[migrationId];
      return migration?.to === name && isHeldBySource(this.#cluster, migration);
    };
    const removal = {
      returned: held.filter(isReturned).map(nameOf),
      placedAnew: held.filter((container) => !isReturned(container)).map(nameOf),
    };
    if (held.length > 0 && !isOff)
      throw new GodwitError(
        "refused",
        `node ${name} is lost but may still run ${held.map(nameOf).join(", ")}: make sure that it is off, and say so with --is-off`,
      );
    const following = [...index.moving]
      .flatMap((id) => state.migrations[id] ?? [])
      .filter((migration) => migration.from === name && isLostWithSource(migration))
      .map(({ containerName }) => containerName);
    if (following.length > 0 && !isOff)
      throw new GodwitError(
        "refused",
        `node ${name} is lost but may still have memory that ${following.join(", ")} cannot go on without: make sure that it is off for good, and say so with --is-off`,
      );
    await this.#propose(command("nodeRemoved", { node: name }));
    return removal;
  }
}
