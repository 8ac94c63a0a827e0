/** One scheduler process: its replica of the state, and while it leads the leader's work. */
import type { Logger } from "pino";
import type { Event } from "../../proto/gen/godwit/v1/api.ts";
import { NodeState, type Container, type Migration } from "../../proto/gen/godwit/v1/log.ts";
import type { ContainerSpec, Image } from "../../proto/gen/godwit/v1/spec.ts";
import { Committer } from "../log/committer.ts";
import type { Link } from "../log/link.ts";
import { idFrom, type Machine } from "../log/machine.ts";
import type { OpenedLog } from "../log/open.ts";
import type { Applied } from "../log/replica.ts";
import { takeSnapshot } from "../log/snapshots.ts";
import { Snapshotter } from "../log/snapshotter.ts";
import { formatBytes, formatSeconds } from "../model/quantity.ts";
import { lostWords } from "../plan/failover.ts";
import { happeningsOf, type Happening } from "../plan/events.ts";
import type { DrainOptions, DrainProgress, ReturnOptions } from "../maintenance.ts";
import type {
  DeepReadonlyState,
  LogServer,
  MovePlan,
  MoveRequest,
  NodeRemoval,
  Runtime,
  Scheduler,
  SchedulerMember,
  SchedulerStatus,
} from "../public.ts";
import type { Cluster } from "../state/cluster.ts";
import { isRepeated } from "../state/requests.ts";
import { forgetTouched } from "../state/touched.ts";
import { UNSEEN, whyOf, type Seen, type WhyView } from "../plan/movable.ts";
import { BalanceOperations } from "./balance-operations.ts";
import { Changes } from "./changes.ts";
import { Checkpoints } from "./checkpoint-operations.ts";
import { setFailover } from "./failover-operations.ts";
import { Leader } from "./leader.ts";
import { MaintenanceOperations } from "./maintenance-operations.ts";
import { Membership } from "./membership.ts";
import { Operations } from "./operations.ts";
import { PlacementOperations } from "./placement-operations.ts";
import { runtimeOf } from "./runtime.ts";
import { ServiceOperations } from "./service-operations.ts";

/** Entries of others are announced as they are appended; this finds those whose announcement was lost. */
const LOOK_AT_LOG_MS = 5_000;

export interface RunningSchedulerOptions {
  readonly link: Link;
  readonly machine: Machine;
  readonly id: string;
  readonly logger: Logger;
  readonly leaseMs: number;
  readonly leaderLeaseMs: number;
  readonly addresses: readonly string[];
  /** How a leader makes sure that it leads; see the committer. */
  readonly confirmBy: "read" | "append";
  readonly snapshotEvery: number;
  readonly opened: OpenedLog;
}

export class RunningScheduler implements Scheduler {
  readonly id: string;
  readonly #options: RunningSchedulerOptions;
  readonly #committer: Committer;
  readonly #snapshotter: Snapshotter;
  readonly #operations: Operations;
  readonly #maintenance: MaintenanceOperations;
  readonly #checkpoints: Checkpoints;
  readonly #membership: Membership;
  readonly services: ServiceOperations;
  readonly balancing: BalanceOperations;
  readonly placement: PlacementOperations;
  readonly #changes = new Changes();
  readonly #cleanup = new DisposableStack();
  /** Of the entry that is being applied, by command. */
  #happenings: Happening[][] = [];
  /** What is applied from here on is new, and not of a leader who may be long gone. */
  #hasReplayed = false;
  #leader: Leader | undefined;
  #disposed: Promise<void> | undefined;

  constructor(options: RunningSchedulerOptions) {
    const { confirmBy, id, link, logger, machine, opened, snapshotEvery } = options;
    const { log, makeSnapshot, replica, snapshots } = opened;
    this.id = id;
    this.#options = options;
    this.#snapshotter = new Snapshotter({
      make: makeSnapshot,
      rescue: () => snapshots.save(takeSnapshot(replica)),
      log,
      replica,
      every: snapshotEvery,
      machine,
      logger,
    });
    this.#committer = new Committer({
      schedulerId: id,
      log,
      replica,
      link,
      machine,
      logger,
      confirmBy,
      reload: opened.reload,
      together: (commands) => this.#leader?.placeAtOnce(commands) ?? [],
      onCommand: (command) =>
        this.#happenings.push(
          isRepeated(replica.cluster, command) ? [] : happeningsOf(replica.cluster, command),
        ),
      onApplied: (applied) => this.#onApplied(applied),
    });
    this.#membership = new Membership({
      ...options,
      committer: this.#committer,
      onElected: () => this.#beginToLead(),
    });
    this.services = new ServiceOperations(replica.cluster, (command) => this.#committer.propose(command));
    this.#operations = new Operations(
      replica.cluster,
      (command) => this.#committer.propose(command),
      machine,
      () => this.#seen,
    );
    this.#checkpoints = new Checkpoints(
      replica.cluster,
      (command) => this.#committer.propose(command),
      machine,
      () => this.#seen,
    );
    this.balancing = new BalanceOperations({
      cluster: replica.cluster,
      propose: (command) => this.#committer.propose(command),
      nowMs: () => machine.nowMs(),
      newId: () => idFrom(machine),
      reports: () => this.#leader?.reports,
    });
    this.#maintenance = new MaintenanceOperations({
      cluster: replica.cluster,
      propose: (command) => this.#committer.propose(command),
      seen: () => this.#seen,
      machine,
    });
    this.placement = new PlacementOperations(
      replica.cluster,
      (command) => this.#committer.propose(command),
      () => this.#seen,
    );
    this.#cleanup.use(log.onForeignAppend(() => this.#committer.catchUp()));
    this.#cleanup.use(machine.every(LOOK_AT_LOG_MS, () => this.#committer.catchUp()));
    this.#cleanup.use(link.onReconnect(() => this.#committer.catchUp()));
  }

  /** Replays the log; resolves once this scheduler leads or knows of one that does. */
  async begin(): Promise<void> {
    await this.#committer.synchronize();
    this.#hasReplayed = true;
    await this.#membership.begin();
  }

  async lead(): Promise<void> {
    if (this.#leader !== undefined && this.#committer.leading) return;
    await this.#committer.lead();
    this.#beginToLead();
  }

  #beginToLead(): void {
    const { leaderLeaseMs, leaseMs, link, logger, machine, opened } = this.#options;
    // One of an earlier epoch: a snapshot was loaded in which the log had gone on.
    this.#stepDownIfOvertaken();
    if (this.#leader !== undefined || this.#disposed !== undefined) return;
    opened.events.start();
    this.#leader = new Leader({
      link,
      machine,
      committer: this.#committer,
      leaseMs,
      leaderLeaseMs,
      logger,
      onChange: () => this.#changes.notify(),
    });
    this.#membership.setLeading(true);
    logger.info(
      { epoch: this.#cluster.state.epoch, sequence: this.#committer.replica.sequence },
      `${this.id} leads`,
    );
    this.#changes.notify();
    this.#stepDownIfOvertaken();
  }

  get #cluster(): Cluster {
    return this.#options.opened.replica.cluster;
  }

  get #seen(): Seen {
    return this.#leader?.reports ?? UNSEEN;
  }

  #onApplied({ bytes, entry, outcomes, sequence }: Applied): void {
    // Nobody sends orders here; who begins to lead sends all of them anew.
    if (this.#leader === undefined) forgetTouched(this.#cluster);
    const happened = this.#happenings.filter((_, position) => outcomes[position] === undefined).flat();
    this.#happenings = [];
    this.#options.opened.events.add(happened.map((one) => ({ atMs: entry.atMs, sequence, ...one })));
    this.#stepDownIfOvertaken();
    if (this.#committer.leading) this.#snapshotter.consider(bytes);
    else if (this.#hasReplayed) this.#membership.signOfLife();
    // By an entry that changes nothing a leader only makes sure of itself, or would plan the same again without end.
    if (outcomes.every((outcome) => outcome !== undefined)) return;
    this.#leader?.wake();
    this.#changes.notify();
  }

  #stepDownIfOvertaken(): void {
    const leader = this.#leader;
    if (leader === undefined) return;
    if (this.#committer.leading && leader.epoch === this.#cluster.state.epoch) return;
    this.#leader = undefined;
    this.#membership.setLeading(false);
    this.#options.opened.events.stop();
    void leader[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return (this.#disposed ??= this.#dispose());
  }
  async #dispose(): Promise<void> {
    this.#cleanup.dispose();
    const leaderDone = this.#leader?.[Symbol.asyncDispose]();
    const led = this.#committer.leading;
    const membershipDone = this.#membership[Symbol.asyncDispose]();
    // Ends the proposals that a round of the leader, or an election, may wait for.
    await this.#committer[Symbol.asyncDispose]();
    await leaderDone;
    await membershipDone;
    if (led) await this.#membership.leave();
    await this.#snapshotter[Symbol.asyncDispose]();
    await this.#options.opened.events[Symbol.asyncDispose]();
    this.#changes.notify();
  }

  get leads(): boolean {
    return this.#leader !== undefined && this.#committer.leading && this.#disposed === undefined;
  }
  status(): SchedulerStatus {
    const { replica } = this.#options.opened;
    const { state } = replica.cluster;
    return {
      leaderId: state.leaderId,
      leading: this.#committer.leading,
      epoch: state.epoch,
      logSequence: replica.sequence,
      snapshotSequence: this.#snapshotter.sequence,
      snapshotHash: this.#snapshotter.stateHash,
      warnings: this.#warnings(),
    };
  }

  stateHash(): string {
    return this.#options.opened.replica.hash();
  }

  #warnings(): string[] {
    const { link, machine } = this.#options;
    const { state } = this.#cluster;
    const warnings: string[] = [];
    const { failure } = this.#committer;
    if (failure !== undefined) warnings.push(`this scheduler has stopped: ${failure.message}`);
    else if (!this.#committer.leading)
      warnings.push(`this scheduler does not lead: ${state.leaderId || "nobody"} does`);
    const sinceMs = link.disconnectedSinceMs;
    if (sinceMs !== undefined)
      warnings.push(`not connected to NATS for ${formatSeconds(machine.nowMs() - sinceMs)}`);
    if (this.#snapshotter.failure !== undefined)
      warnings.push(`the last snapshot could not be taken: ${this.#snapshotter.failure.message}`);
    for (const [name, bytes] of this.#leader?.oversized ?? [])
      warnings.push(
        `node ${name} gets no new orders: among ${formatBytes(bytes)} of them is one that NATS does not take in a message; raise max_payload of nats-server`,
      );
    warnings.push(...(this.#leader?.refusedKeys ?? []));
    const paused = state.balancing?.pausedReason ?? "";
    if (paused !== "") warnings.push(`the balancer has paused itself: ${paused}`);
    const leader = this.#leader;
    // Of thousands, for everybody who asks: only what is the matter is looked at more closely.
    for (const name in state.nodes) {
      const node = state.nodes[name];
      if (node?.state === NodeState.LOST) {
        const fencedFromMs = leader?.reports.fencedFromMs(name, node.fenceMs);
        const leftMs =
          leader === undefined || fencedFromMs === undefined ? undefined : fencedFromMs - leader.nowMs();
        warnings.push(lostWords(name, node, leftMs, state.failoverOff));
      } else if (node !== undefined && node.fenceFault !== "")
        warnings.push(
          `node ${name} has no fence: ${node.fenceFault}; should it be lost, its containers are not started elsewhere by themselves`,
        );
    }
    return warnings;
  }

  schedulers(): readonly SchedulerMember[] {
    return this.#membership.schedulers();
  }
  servers(): Promise<readonly LogServer[]> {
    return this.#options.opened.log.servers();
  }
  confirm(): Promise<void> {
    return this.#committer.confirm();
  }
  state(): DeepReadonlyState {
    return this.#cluster.state;
  }
  why(containerId: string): WhyView | undefined {
    const container = this.#cluster.state.containers[containerId];
    return container === undefined ? undefined : whyOf(this.#cluster, this.#seen, container);
  }
  runtime(): Runtime {
    return runtimeOf(
      this.#cluster,
      this.#leader?.reports,
      this.#leader?.nowMs() ?? this.#options.machine.nowMs(),
    );
  }
  changes(signal: AbortSignal): AsyncIterable<void> {
    return this.#changes.watch(signal);
  }

  addImage(image: Image): Promise<void> {
    return this.#operations.addImage(image);
  }
  removeImage(name: string): Promise<void> {
    return this.#operations.removeImage(name);
  }
  createContainer(spec: ContainerSpec): Promise<Pick<Container, "id">> {
    return this.#operations.createContainer(spec);
  }
  setDesired(containerId: string, action: "start" | "stop" | "restart"): Promise<void> {
    return this.#operations.setDesired(containerId, action);
  }
  removeContainer(containerId: string, force: boolean): Promise<void> {
    return this.#operations.removeContainer(containerId, force);
  }
  planMove(request: MoveRequest): MovePlan {
    return this.#operations.planMove(request);
  }
  startMigration(request: MoveRequest): Promise<Migration> {
    return this.#operations.startMigration(request);
  }
  cancelMigration(id: string): Promise<void> {
    return this.#operations.cancelMigration(id);
  }
  trustNodeKey(node: string, key: Uint8Array): Promise<void> {
    return this.#operations.trustNodeKey(node, key);
  }
  setSchedulable(node: string, schedulable: boolean): Promise<void> {
    return this.#operations.setSchedulable(node, schedulable);
  }
  removeNode(node: string, isOff: boolean): Promise<NodeRemoval> {
    return this.#operations.removeNode(node, isOff);
  }
  planDrain(node: string, options?: Partial<Pick<DrainOptions, "deadlineMs" | "force">>): DrainProgress {
    return this.#maintenance.planDrain(node, options);
  }
  startDrain(options: DrainOptions): Promise<void> {
    return this.#maintenance.startDrain(options);
  }
  cancelDrain(node: string): Promise<void> {
    return this.#maintenance.cancelDrain(node);
  }
  createCheckpoint(containerId: string): Promise<string> {
    return this.#checkpoints.createCheckpoint(containerId);
  }
  restoreCheckpoint(id: string, node?: string): Promise<string> {
    return this.#checkpoints.restoreCheckpoint(id, node);
  }
  removeCheckpoint(id: string): Promise<void> {
    return this.#checkpoints.removeCheckpoint(id);
  }
  setFailover(enabled: boolean): Promise<void> {
    return setFailover((command) => this.#committer.propose(command), enabled);
  }
  drainProgress(node: string): DrainProgress | undefined {
    return this.#maintenance.drainProgress(node);
  }
  planReturn(node: string): DrainProgress {
    return this.#maintenance.planReturn(node);
  }
  startReturn(options: ReturnOptions): Promise<void> {
    return this.#maintenance.startReturn(options);
  }
  cancelReturn(node: string): Promise<void> {
    return this.#maintenance.cancelReturn(node);
  }
  returnProgress(node: string): DrainProgress | undefined {
    return this.#maintenance.returnProgress(node);
  }

  events(options: { sinceMs: number; follow: boolean; signal: AbortSignal }): AsyncIterable<Event> {
    return this.#options.opened.events.events(options);
  }
}
