/**
 * Reads the log as it is written and holds every rule against it. It has a replica of its own; what it checks it works
 * out from the state alone, and not from what the state machine keeps beside it.
 */
import {
  AllocationState,
  LogEntry,
  MigrationState,
  NodeState,
  DesiredState,
  type Command,
  type MigrationStarted,
  type State,
} from "../../proto/gen/godwit/v1/log.ts";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { balanceSettingsOf } from "../../scheduler/state/apply-balance.ts";
import { isAvailable } from "../../scheduler/state/availability.ts";
import { Replica, stateHash } from "../../scheduler/log/replica.ts";
import type { StoredEntry } from "../../scheduler/log/log-store.ts";
import type { Kernel, Ruling } from "./kernel.ts";
import { Refusals } from "./refusals.ts";
import { isClosed, neighbourFault, stateFault } from "./state-rules.ts";
import type { World } from "./world.ts";

/** Of commands that are made once: what tells one from all others. */
const identityOf = ({ command }: Command): string | undefined => {
  switch (command?.$case) {
    case "checkpointStarted":
    case "containerCreated":
    case "migrationStarted":
      return `${command.$case} ${command.value.id}`;
    case "drainStarted":
      return `${command.$case} ${command.value.drainId}`;
    case "leaderElected":
      return `${command.$case} ${command.value.epoch}`;
    default:
      return undefined;
  }
};

/** Commands by which a migration may end with something lost. */
const MAY_LOSE: ReadonlySet<string> = new Set(["migrationLost", "nodeRemoved", "nodeFenced"]);

/** States are compared at some entries and at the end: what differs once differs from then on. */
const COMPARED_EVERY = 5;
const isCompared = (sequence: number): boolean => sequence % COMPARED_EVERY === 0;

/** No report is older that a leader acts upon. */
const HEARD_MS = 30_000;

const ENDED: ReadonlySet<AllocationState> = new Set([AllocationState.EXITED, AllocationState.FAILED]);

/** Between an end that is decided and its entry. */
const LATE_MS = 500;

interface Explained {
  readonly epoch: number;
  /** Of a move that has been switched. */
  readonly source: string | undefined;
}

export class Referee implements Ruling {
  readonly replica = new Replica();
  readonly #world: World;
  readonly #kernel: Kernel;
  readonly #hashes = new Map<number, string>();
  readonly #given = new Set<string>();
  readonly #made = new Set<string>();
  readonly #entryIds = new Set<string>();
  /** Highest epoch of each container that the log has given. */
  readonly #epochs = new Map<string, number>();
  readonly #accepted = new Set<string>();
  /** That were granted. */
  readonly #requests = new Set<string>();
  /** The state before the repetition that is being applied. */
  #repeated: string | undefined;
  /** Containers whose end the log explains: their node was lost or removed. */
  #explained = new Map<string, Explained>();
  /** By container: when a move of it was last seen to have ended. */
  readonly #movedAtMs = new Map<string, number>();
  readonly #takenAtMs = new Map<string, number>();
  readonly #refusals = new Refusals();
  /** Migrations that are known to have lost something. */
  readonly #lost = new Set<string>();
  /** By migration: which life of its container was switched. */
  readonly #moved = new Map<string, number | undefined>();
  #leaderEpoch = 0;
  /** Told each step of each move. */
  onMove: (from: string, to: string, isSwitched: boolean) => void = () => undefined;
  counts = new Map<string, number>();

  constructor(world: World, kernel: Kernel) {
    this.#world = world;
    this.#kernel = kernel;
  }

  get state(): State {
    return this.replica.cluster.state;
  }

  stored(stored: StoredEntry): void {
    const entry = LogEntry.decode(stored.bytes);
    const kinds = entry.commands.map(({ command }) => command?.$case ?? "?").join();
    this.#world.trace(`log ${stored.sequence} epoch ${entry.epoch} ${kinds}`);
    if (this.#entryIds.has(entry.id)) this.#world.violated(`entry ${entry.id} is in the log twice`);
    this.#entryIds.add(entry.id);
    const isStale = entry.epoch < this.state.epoch;
    const before = isStale ? this.#contentHash() : undefined;
    const explained = new Map(this.#explain());
    const breaches: (string | undefined)[] = [];
    // Asked before each command, for what it breaks if it is accepted.
    const { outcomes } = this.replica.apply(stored, (command) => {
      this.#endRepeated(stored.sequence);
      // A node may be lost, fenced and back within one entry.
      if (command.command?.$case === "nodeFenced")
        for (const [id, how] of this.#explain()) if (!explained.has(id)) explained.set(id, how);
      breaches.push(this.#breach(command));
      if (this.#requests.has(command.requestId ?? "")) this.#repeated = this.#contentHash();
    });
    this.#endRepeated(stored.sequence);
    if (before !== undefined && before !== this.#contentHash())
      this.#world.violated(
        `entry ${stored.sequence} of epoch ${entry.epoch} changed the state, and epoch ${this.#leaderEpoch} had begun`,
      );
    for (const [id, before] of explained) this.#forgive(id, before);
    this.#explain();
    if (isCompared(stored.sequence)) this.#hashes.set(stored.sequence, stateHash(this.replica.cluster));
    for (const [at, command] of entry.commands.entries()) {
      const isAccepted = outcomes[at] === undefined;
      const isRepeated = this.#requests.has(command.requestId ?? "");
      this.#count(command, isAccepted);
      const refusal = this.#refusals.note(command, isAccepted);
      if (refusal !== undefined) this.#world.violated(`entry ${stored.sequence}: ${refusal}`);
      const breach = breaches[at];
      if (isAccepted && !isRepeated && breach !== undefined)
        this.#world.violated(`entry ${stored.sequence}: ${breach}`);
    }
    this.#state();
    for (const { command } of entry.commands)
      if (command?.$case === "migrationFinished" || command?.$case === "migrationAborted") {
        const { containerId, state } = this.state.migrations[command.value.id] ?? {};
        if (containerId !== undefined && state !== MigrationState.RUNNING)
          this.#movedAtMs.set(containerId, this.#world.nowMs);
      }
    this.#excuseLost(entry.commands);
    this.#followCheckpoints(entry.commands, outcomes);
    for (const { command } of entry.commands)
      if (command?.$case === "migrationStarted" || command?.$case === "migrationSwitched") {
        const { containerId, from, id, state, to } = this.state.migrations[command.value.id] ?? {};
        if (id === undefined || from === undefined || to === undefined) continue;
        const isSwitched = state === MigrationState.SWITCHED;
        if (isSwitched && !this.#moved.has(id))
          this.#moved.set(id, this.#kernel.newestLife(containerId ?? ""));
        this.onMove(from, to, isSwitched);
      }
  }

  /** What the log calls lost may be ended, and begun anew. */
  #excuseLost(commands: readonly Command[]): void {
    if (!commands.some(({ command }) => MAY_LOSE.has(command?.$case ?? ""))) return;
    for (const { containerId, id, state } of Object.values(this.state.migrations)) {
      if (state !== MigrationState.LOST || this.#lost.has(id)) continue;
      this.#lost.add(id);
      this.#kernel.forgive(containerId);
    }
  }

  #followCheckpoints(commands: readonly Command[], outcomes: readonly unknown[]): void {
    for (const [at, { command }] of commands.entries()) {
      if (outcomes[at] !== undefined) continue;
      switch (command?.$case) {
        case "checkpointStarted":
          this.#takenAtMs.set(command.value.id, this.#world.nowMs);
          break;
        case "containerRestored":
          // Somebody wants it to be what it was then.
          this.#kernel.forgive(command.value.containerId);
          this.#kernel.beginsFrom(command.value.containerId, command.value);
          break;
        case "allocationPlaced": {
          const { checkpointId = "", containerId, epoch } = command.value;
          this.#kernel.beginsFrom(containerId, checkpointId === "" ? undefined : { checkpointId, epoch });
          break;
        }
        case "allocationObserved":
          if (ENDED.has(command.value.state)) this.#kernel.beginsFrom(command.value.containerId, undefined);
          break;
        default:
      }
    }
  }

  /** Of a checkpoint that is not complete, how long it has been taken for. */
  takenForMs(id: string): number {
    return this.#world.nowMs - (this.#takenAtMs.get(id) ?? 0);
  }

  /** A request that has been granted once changes nothing when it is made again. */
  #endRepeated(sequence: number): void {
    const before = this.#repeated;
    this.#repeated = undefined;
    if (before !== undefined && before !== this.#contentHash())
      this.#world.violated(`entry ${sequence}: a request that had been granted was granted once more`);
  }

  /** Without what every entry changes. */
  #contentHash(): string {
    const { state } = this.replica.cluster;
    return stateHash({ state: { ...state, lastSequence: 0 } } as Parameters<typeof stateHash>[0]);
  }

  /** A container of a node that is lost may be started elsewhere: that it was lost is the recorded failure. */
  #explain(): ReadonlyMap<string, Explained> {
    this.#explained = new Map();
    const { containers, migrations, nodes } = this.state;
    for (const { id, allocation, migrationId } of Object.values(containers)) {
      const node = nodes[allocation?.node ?? ""];
      if (allocation === undefined || node?.state === NodeState.READY) continue;
      const migration = migrations[migrationId];
      const source = migration?.state === MigrationState.SWITCHED ? migration.from : undefined;
      this.#explained.set(id, { epoch: allocation.epoch, source });
    }
    return this.#explained;
  }

  /** It has gone on to somewhere else. The source of its move goes on with what it has kept, and begins nothing anew. */
  #forgive(id: string, { epoch, source }: Explained): void {
    const now = this.state.containers[id]?.allocation;
    if (now?.epoch === epoch) return;
    const isBack = now !== undefined && now.node === source;
    if (isBack && this.#kernel.whereItIs(id)?.name === source) return;
    this.#kernel.forgive(id);
    if (isBack) this.#kernel.givenBack(id, now.node);
  }

  /** A cold move that nobody has asked for takes one away for a while. */
  #budgetFault({ containerId, mode, reason }: MigrationStarted): string | undefined {
    if (mode !== MigrationMode.COLD || reason === "operator") return undefined;
    const { cluster } = this.replica;
    const container = cluster.state.containers[containerId];
    const { spec, removing = true } = cluster.state.services[container?.service ?? ""] ?? {};
    if (container === undefined || spec === undefined || removing || !isAvailable(cluster, container))
      return undefined;
    const { limit } = spec.disruption ?? {};
    const most = limit?.$case === "maxUnavailable" ? limit.value : 1;
    const available = Object.values(cluster.state.containers).filter(
      (other) => other.service === spec.name && isAvailable(cluster, other),
    ).length;
    return available - 1 < spec.replicas - most
      ? `${containerId} is moved cold (${reason}) with ${available} of ${spec.replicas} of ${spec.name} available, of which ${most} may be missing`
      : undefined;
  }

  /** What the balancer begins by itself stays within its settings. */
  #balanceFault({ balance, containerId }: MigrationStarted): string | undefined {
    if (balance === undefined || !this.#world.hasTrueClocks) return undefined;
    const { coolDownMs, parallel } = balanceSettingsOf(this.state);
    const restedMs = this.#world.nowMs - (this.#movedAtMs.get(containerId) ?? -Infinity);
    if (restedMs < coolDownMs - LATE_MS)
      return `${containerId} is balanced again after ${Math.round(restedMs)} of ${coolDownMs} ms`;
    const moving = [...this.replica.cluster.index.moving].filter(
      (id) => this.state.migrations[id]?.balance !== undefined,
    ).length;
    return moving >= parallel
      ? `${containerId} is balanced beside ${moving} others, and ${parallel} may be at once`
      : undefined;
  }

  /** Each keeper has it, but for one whose disk was exchanged a moment ago. */
  #storedFault(id: string): string | undefined {
    const missing = (this.state.checkpoints[id]?.keepers ?? []).find((keeper) => {
      const machine = this.#kernel.machines.get(keeper);
      if (machine === undefined || machine.diskSinceMs >= this.#world.nowMs - HEARD_MS) return false;
      return this.#kernel.chainOf(id).some((link) => !machine.kept.has(link));
    });
    return missing === undefined
      ? undefined
      : `checkpoint ${id} counts as stored, and ${missing} has not got it`;
  }

  /** The rule that the command would break if it took effect now. */
  #breach({ command }: Command): string | undefined {
    const { state } = this;
    switch (command?.$case) {
      case "allocationPlaced": {
        const { containerId, node } = command.value;
        return isClosed(state, node)
          ? `${containerId} comes to ${node}, which is cordoned or lost`
          : neighbourFault(state, containerId, node);
      }
      case "migrationStarted": {
        const { containerId, to } = command.value;
        return isClosed(state, to)
          ? `${containerId} is to move to ${to}, which is cordoned or lost`
          : (neighbourFault(state, containerId, to) ??
              this.#budgetFault(command.value) ??
              this.#balanceFault(command.value));
      }
      case "migrationSwitched": {
        const { id } = command.value;
        const to = state.migrations[id]?.to ?? "";
        return state.nodes[to]?.state === NodeState.LOST
          ? `migration ${id} is switched to ${to}, which is lost`
          : undefined;
      }
      case "checkpointStored":
        return this.#storedFault(command.value.id);
      case "migrationLost": {
        const { id } = command.value;
        const { containerId = "" } = state.migrations[id] ?? {};
        const where = this.#kernel.whereItIs(containerId);
        // Its host may have begun it anew before anybody knew what it had lost.
        return where === undefined || this.#kernel.newestLife(containerId) !== this.#moved.get(id)
          ? undefined
          : `migration ${id} counts ${containerId} as lost, and ${where.name} has it`;
      }
      case "containerRemoved": {
        const { id } = command.value;
        if (state.containers[id]?.removeForce === true) return undefined;
        const running = this.#kernel.runningOn(id);
        return running.length === 0
          ? undefined
          : `${id} is forgotten, and runs on ${running.map(({ name }) => name).join()}`;
      }
      default:
        return undefined;
    }
  }

  #count(command: Command, isAccepted: boolean): void {
    const kind = `${command.command?.$case ?? "?"}${isAccepted ? "" : " (rejected)"}`;
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
    const { requestId = "" } = command;
    const isRepeated = this.#requests.has(requestId);
    if (isAccepted && requestId !== "") this.#requests.add(requestId);
    const identity = identityOf(command);
    if (identity === undefined || isRepeated) return;
    // Whoever asks twice is not known to have been refused the first time by what the log says.
    if (command.command?.$case !== "leaderElected" && requestId === "") {
      if (this.#made.has(identity)) this.#world.violated(`${identity} is in the log twice`);
      this.#made.add(identity);
    }
    if (isAccepted) this.#accepted.add(identity);
  }

  #state(): void {
    const { state } = this;
    if (state.epoch < this.#leaderEpoch)
      this.#world.violated(`the leader's epoch fell from ${this.#leaderEpoch} to ${state.epoch}`);
    this.#leaderEpoch = state.epoch;
    for (const { id, allocation } of Object.values(state.containers)) {
      if (allocation === undefined) continue;
      const before = this.#epochs.get(id) ?? 0;
      if (allocation.epoch < before)
        this.#world.violated(`the epoch of ${id} fell from ${before} to ${allocation.epoch}`);
      const given = `${id} ${allocation.node} ${allocation.epoch}`;
      if (allocation.epoch === before && !this.#given.has(given))
        this.#world.violated(`epoch ${before} of ${id} was given twice, last to ${allocation.node}`);
      this.#epochs.set(id, allocation.epoch);
      this.#given.add(given);
    }
    const fault = stateFault(state);
    if (fault !== undefined) this.#world.violated(`after entry ${state.lastSequence}: ${fault}`);
  }

  /** A scheduler has applied an entry. */
  applied(name: string, replica: Replica): void {
    if (isCompared(replica.sequence)) this.compare(name, replica);
  }
  compare(name: string, replica: Replica): void {
    const expected = this.#hashes.get(replica.sequence) ?? this.replica.hash();
    if (expected !== stateHash(replica.cluster))
      this.#world.violated(`${name} has another state than others have at entry ${replica.sequence}`);
  }

  isAccepted(identity: string): boolean {
    return this.#accepted.has(identity);
  }
  /** It is in the log, whether it had an effect or not. */
  isMade(identity: string): boolean {
    return this.#made.has(identity);
  }

  wasGiven(containerId: string, node: string, epoch: number): boolean {
    return this.#given.has(`${containerId} ${node} ${epoch}`);
  }
  isExcused(containerId: string, restartGeneration: number): boolean {
    const container = this.state.containers[containerId];
    if (container === undefined || container.removing || container.retiring) return true;
    if (this.#explained.has(containerId) || container.preemption !== undefined) return true;
    return container.desired === DesiredState.STOPPED || container.restartGeneration > restartGeneration;
  }

  isKept(checkpointId: string, node: string): boolean {
    const checkpoint = this.state.checkpoints[checkpointId];
    return checkpoint?.state === CheckpointState.STORED && checkpoint.keepers.includes(node);
  }

  isForgotten(containerId: string): boolean {
    const container = this.state.containers[containerId];
    if (container === undefined || container.removing || container.retiring) return true;
    return container.preemption !== undefined || this.#explained.has(containerId);
  }
}
