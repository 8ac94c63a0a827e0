/** Node, event and status calls of the API. */
import type {
  ClusterStatus,
  Event,
  EventsRequest,
  ListNodesResponse,
  NodeSummary,
  RemoveNodeRequest,
  RemoveNodeResponse,
  SetSchedulableRequest,
  StatusRequest,
  TrustNodeKeyRequest,
} from "../../../proto/gen/godwit/v1/api.ts";
import { NodeState } from "../../../proto/gen/godwit/v1/log.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { LogServer, Scheduler } from "../../../scheduler/mod.ts";
import { findNode } from "../find.ts";
import type { LeaderGate } from "../leader-gate.ts";
import { containerState } from "../view/container.ts";
import { migrationEnded } from "../view/migration.ts";
import { nodeSummary } from "../view/node.ts";

export interface Versions {
  readonly godwit: string;
  /** Of the server that is connected right now. */
  readonly nats: () => string;
}

const SERVERS_MS = 1_000;
const CONFIRM_MS = 1_000;

export class NodeService {
  readonly #scheduler: Scheduler;
  readonly #gate: LeaderGate;
  readonly #versions: Versions;

  constructor(scheduler: Scheduler, gate: LeaderGate, versions: Versions) {
    this.#gate = gate;
    this.#scheduler = scheduler;
    this.#versions = versions;
  }

  /** What the leader knows, also while the log does not answer; with `local`, what this scheduler knows. */
  async status(request: StatusRequest, signal: AbortSignal): Promise<ClusterStatus> {
    const doubts: string[] = [];
    if (request.local !== true) {
      this.#gate.look();
      try {
        await this.#gate.enter(AbortSignal.any([signal, AbortSignal.timeout(CONFIRM_MS)]));
      } catch {
        this.#gate.look();
        doubts.push("this may be out of date: the log does not say who leads");
      }
    }
    const servers = await this.#servers();
    const status = this.#scheduler.status();
    const state = this.#scheduler.state();
    const nodes = Object.entries(state.nodes);
    const lost = nodes.filter(([, node]) => node.state === NodeState.LOST).map(([name]) => name);
    const containers = Object.values(state.containers);
    const running = containers.filter((container) => {
      const name = containerState(container, lost.includes(container.allocation?.node ?? ""));
      return name === "running" || name === "migrating";
    });
    const warnings = [...doubts, ...status.warnings];
    if (nodes.length === 0) warnings.push("no node has joined yet");
    for (const container of containers) {
      if (container.placementFailure === "" || container.allocation !== undefined) continue;
      warnings.push(
        `container ${container.spec?.name ?? container.id} waits for a place: ${container.placementFailure}`,
      );
    }
    return {
      leader: status.leaderId,
      epoch: status.epoch,
      logSequence: status.logSequence,
      snapshotSequence: status.snapshotSequence,
      stateHash: status.snapshotHash,
      version: this.#versions.godwit,
      natsVersion: this.#versions.nats(),
      nodesReady: nodes.length - lost.length,
      nodesTotal: nodes.length,
      containersRunning: running.length,
      containersTotal: containers.length,
      migrationsRunning: Object.values(state.migrations).filter((migration) => !migrationEnded(migration))
        .length,
      warnings: [...new Set(warnings)],
      schedulers: this.#scheduler
        .schedulers()
        .map(({ id, role, logSequence, addresses, server, silentMs }) => ({
          id,
          role,
          logSequence,
          addresses: [...addresses],
          server,
          silentMs: Math.round(silentMs),
        })),
      servers: servers.map((server) => ({ ...server })),
      answeredBy: this.#scheduler.id,
      failoverOff: state.failoverOff,
    };
  }

  /** The status is told also while the log does not answer. */
  async #servers(): Promise<readonly LogServer[]> {
    const { promise: tired, resolve } = Promise.withResolvers<readonly LogServer[]>();
    const timer = setTimeout(() => resolve([]), SERVERS_MS);
    try {
      return await Promise.race([this.#scheduler.servers(), tired]);
    } catch {
      return []; // that it cannot be asked is among the warnings
    } finally {
      clearTimeout(timer);
    }
  }

  async list(): Promise<ListNodesResponse> {
    const names = Object.keys(this.#scheduler.state().nodes).sort((a, b) =>
      a.localeCompare(b, "en", { numeric: true }),
    );
    return { nodes: names.map((name) => this.#summary(name)) };
  }

  async setSchedulable(request: SetSchedulableRequest): Promise<NodeSummary> {
    const { name } = findNode(this.#scheduler.state(), request.node);
    await this.#scheduler.setSchedulable(name, request.schedulable);
    return this.#summary(name);
  }

  async trustKey(request: TrustNodeKeyRequest): Promise<NodeSummary> {
    const { name } = findNode(this.#scheduler.state(), request.node);
    await this.#scheduler.trustNodeKey(name, request.key);
    return this.#summary(name);
  }

  async remove(request: RemoveNodeRequest): Promise<RemoveNodeResponse> {
    const { name } = findNode(this.#scheduler.state(), request.node);
    const { placedAnew, returned } = await this.#scheduler.removeNode(name, request.isOff);
    return { node: name, returned: [...returned], placedAnew: [...placedAnew] };
  }

  events(request: EventsRequest, signal: AbortSignal): AsyncIterable<Event> {
    return this.#scheduler.events({ sinceMs: request.sinceMs, follow: request.follow, signal });
  }

  #summary(name: string): NodeSummary {
    const state = this.#scheduler.state();
    const node = Object.hasOwn(state.nodes, name) ? state.nodes[name] : undefined;
    if (node === undefined) throw new GodwitError("not-found", `the node ${name} was removed meanwhile`);
    return nodeSummary(state, name, node, this.#scheduler.runtime().node(name));
  }
}
