/**
 * An agent without containers: it does what its Desired says at once and reports it, as a real agent would, and each
 * step of a migration can be held back or made to fail.
 */
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { Orders } from "../../proto/contract/orders.ts";
import { ReportBook } from "../../proto/contract/report-book.ts";
import { desiredSubject, reportSubject } from "../../proto/contract/subjects.ts";
import { CheckpointPhase, CheckpointReport } from "../../proto/gen/godwit/v1/checkpoint.ts";
import {
  Desired,
  MigrationPhase,
  MigrationReport,
  Report,
  ReportReply,
  Role,
  type DesiredAllocation,
} from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, DesiredState, type NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationFigures } from "../../proto/gen/godwit/v1/spec.ts";
import { connectionOptions } from "../log/connection.ts";
import { sampleNode, sampleSight } from "./sample.ts";

type Phase = MigrationPhase;

export interface AgentScript {
  /** Whether a side may go on to a phase now; default: always. */
  readonly allows?: (phase: Phase, containerId: string) => boolean;
  /** Makes a side report FAILED instead of a phase. */
  readonly fails?: (phase: Phase, containerId: string) => string | undefined;
}

interface Held {
  epoch: number;
  state: AllocationState;
  exitCode: number;
  generation: number;
}

export class SimulatedAgent implements AsyncDisposable {
  readonly info: NodeInfo;
  readonly incarnation: string;
  /** Containers on this host, frozen ones included. */
  readonly held = new Map<string, Held>();
  readonly replies: ReportReply[] = [];
  readonly #migrations = new Map<string, MigrationReport>();
  readonly #connection: NatsConnection;
  readonly #timer: NodeJS.Timeout;
  script: AgentScript;
  /** Stands still when its lease ends, and says so. */
  hasFence = false;
  /** As a source of checkpoints it remembers the one before. */
  knowsBases = true;
  /** Those that this node is to keep and has no more. */
  readonly lostCheckpoints = new Set<string>();
  /** By container, the checkpoint that it went on from here. */
  readonly restored = new Map<string, string>();
  /** Told of each container that it begins to run. */
  onRun: (containerId: string) => void = () => undefined;
  #leaseMs: number | undefined;
  #leaseUntilMs = Infinity;
  readonly #orders = new Orders();
  readonly #book: ReportBook;
  #muted = false;
  static #begun = 0;
  #reporting: Promise<void> | undefined;
  #reportAgain = false;

  private constructor(connection: NatsConnection, info: NodeInfo, incarnation: string, script: AgentScript) {
    this.#connection = connection;
    this.info = info;
    this.incarnation = incarnation;
    this.script = script;
    // Another one for each, also of those that begin within a millisecond.
    this.#book = new ReportBook(Math.round(performance.now() * 1_000) + (SimulatedAgent.#begun += 1));
    connection.subscribe(desiredSubject(info.name), {
      callback: (error, message) => {
        if (error === null && !this.#muted) this.#take(Desired.decode(message.data));
      },
    });
    this.#timer = setInterval(() => this.act(), 50);
    this.act();
  }

  static async start(
    url: string,
    name: string,
    options: { incarnation?: string; script?: AgentScript; info?: Partial<NodeInfo> } = {},
  ): Promise<SimulatedAgent> {
    const connection = await connect({ servers: url, ...connectionOptions });
    return new SimulatedAgent(
      connection,
      sampleNode(name, options.info),
      options.incarnation ?? `i-${name}`,
      options.script ?? {},
    );
  }

  /** What it has been told; undefined: nothing yet. */
  get desired(): Desired | undefined {
    const { allocations, keptCheckpoints, leaderEpoch, network, peers, revision } = this.#orders;
    if (revision === 0) return undefined;
    return {
      ...Desired.fromPartial({ leaderEpoch, revision }),
      allocations: [...allocations.values()],
      keptCheckpoints: [...keptCheckpoints.values()],
      network,
      peers,
    };
  }
  roleOf(containerId: string): Role | undefined {
    return this.#orders.allocations.get(containerId)?.role;
  }
  /** Neither reports nor hears anything, as if the host were cut off. */
  mute(muted: boolean): void {
    this.#muted = muted;
    if (!muted) this.act();
  }
  /** Its containers stand still. */
  get isClosed(): boolean {
    return performance.now() >= this.#leaseUntilMs;
  }
  /** As if the container's first process ended. */
  exit(containerId: string, exitCode: number): void {
    const held = this.held.get(containerId);
    if (held !== undefined) Object.assign(held, { state: AllocationState.EXITED, exitCode });
    this.act();
  }
  /** As if the agent was killed: what it knew of migrations is gone, containers stay. */
  forgetMigrations(): void {
    this.#migrations.clear();
  }

  /** Does what is to be done and reports. */
  act(): void {
    if (this.#orders.revision > 0 && !this.isClosed) this.#follow();
    this.#report();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#muted = true;
    await this.#connection.close();
    await this.#reporting;
  }

  #take(desired: Desired): void {
    const { kind } = this.#orders.take(desired);
    if (kind === "taken") this.act();
    // What it lacks comes with the answer.
    else if (kind === "gap") this.#report();
  }

  #follow(): void {
    const { allocations } = this.#orders;
    for (const id of this.held.keys()) if (!allocations.has(id)) this.held.delete(id);
    const orders = new Set([...allocations.values()].map((allocation) => allocation.migration?.id));
    for (const id of this.#migrations.keys()) if (!orders.has(id)) this.#migrations.delete(id);
    for (const allocation of allocations.values()) this.#step(allocation);
  }

  #step(allocation: DesiredAllocation): void {
    switch (allocation.role) {
      case Role.SOURCE:
        if (allocation.migration?.switched === true) return; // holds its frozen copy
        this.#run(allocation);
        this.#stepSource(allocation);
        return;
      case Role.TARGET:
        this.#advance(allocation, [MigrationPhase.PREPARING, MigrationPhase.READY, MigrationPhase.RECEIVING]);
        if (this.#phaseOf(allocation) === MigrationPhase.RECEIVING && this.#peerHasSent(allocation))
          this.#advance(allocation, [MigrationPhase.RECEIVING, MigrationPhase.RESTORED]);
        this.#restore(allocation);
        return;
      case Role.RELEASED:
        this.#advance(allocation, [MigrationPhase.RELEASED]);
        if (this.#phaseOf(allocation) === MigrationPhase.RELEASED) this.held.delete(allocation.containerId);
        return;
      default:
        if (allocation.migration?.switched === true) {
          this.#advance(allocation, [MigrationPhase.RUNNING]);
          if (this.#phaseOf(allocation) !== MigrationPhase.RUNNING) return;
        }
        this.#run(allocation);
    }
  }

  /** What the two sides would see of each other's stream goes through this shared board. */
  static readonly sent = new Set<string>();
  #peerHasSent(allocation: DesiredAllocation): boolean {
    return SimulatedAgent.sent.has(allocation.migration?.id ?? "");
  }

  #stepSource(allocation: DesiredAllocation): void {
    if (allocation.migration?.copy !== true) return;
    this.#advance(allocation, [MigrationPhase.COPYING, MigrationPhase.FROZEN, MigrationPhase.DUMPED]);
    const held = this.held.get(allocation.containerId);
    const phase = this.#phaseOf(allocation);
    if (phase === MigrationPhase.FROZEN || phase === MigrationPhase.DUMPED)
      if (held !== undefined) held.state = AllocationState.FROZEN;
    if (phase === MigrationPhase.DUMPED) SimulatedAgent.sent.add(allocation.migration.id);
  }

  /** What is restored is on this host, and is listed, before it runs. */
  #restore({ containerId, epoch, migration, restartGeneration }: DesiredAllocation): void {
    if (this.#migrations.get(migration?.id ?? "")?.phase !== MigrationPhase.RESTORED) return;
    const held = { epoch, state: AllocationState.STARTING, exitCode: 0, generation: restartGeneration };
    this.held.set(containerId, held);
  }

  #run({ containerId, desired, epoch, restartGeneration, restore, role }: DesiredAllocation): void {
    const held = this.held.get(containerId);
    const isHeldBack = held?.state === AllocationState.STARTING;
    if (held === undefined || isHeldBack || held.generation < restartGeneration) {
      const state = desired === DesiredState.STOPPED ? AllocationState.EXITED : AllocationState.RUNNING;
      this.held.set(containerId, { epoch, state, exitCode: 0, generation: restartGeneration });
      if (restore !== undefined) this.restored.set(containerId, restore.checkpointId);
      if (state === AllocationState.RUNNING) this.onRun(containerId);
      return;
    }
    held.epoch = epoch;
    if (desired === DesiredState.STOPPED && held.state !== AllocationState.EXITED)
      Object.assign(held, { state: AllocationState.EXITED, exitCode: 143 });
    // The owner again, after an abort: thaw.
    if (role === Role.OWNER && held.state === AllocationState.FROZEN) held.state = AllocationState.RUNNING;
  }

  #phaseOf(allocation: DesiredAllocation): Phase | undefined {
    return this.#migrations.get(allocation.migration?.id ?? "")?.phase;
  }

  #advance(allocation: DesiredAllocation, phases: readonly Phase[]): void {
    const id = allocation.migration?.id ?? "";
    for (;;) {
      const now = this.#phaseOf(allocation);
      if (now === MigrationPhase.FAILED) return;
      const next = now === undefined || !phases.includes(now) ? phases[0] : phases[phases.indexOf(now) + 1];
      if (next === undefined || this.script.allows?.(next, allocation.containerId) === false) return;
      const error = this.script.fails?.(next, allocation.containerId);
      this.#migrations.set(
        id,
        MigrationReport.fromPartial({
          id,
          containerId: allocation.containerId,
          role: allocation.role,
          phase: error === undefined ? next : MigrationPhase.FAILED,
          error: error ?? "",
          figures: this.#figures(next),
        }),
      );
    }
  }

  #figures(phase: Phase): MigrationFigures {
    if (phase === MigrationPhase.RELEASED)
      return MigrationFigures.fromPartial({ freezeMs: 1, dumpMs: 60, sentBytes: 4096 });
    if (phase === MigrationPhase.RUNNING)
      return MigrationFigures.fromPartial({ restoreMs: 40, blackoutMs: 120 });
    return MigrationFigures.fromPartial({});
  }

  #checkpointReports(): CheckpointReport[] {
    const taken = [...this.#orders.allocations.values()].flatMap(({ checkpoint }) => checkpoint ?? []);
    const kept = [...this.#orders.keptCheckpoints.values()];
    const reports = [
      ...taken.map(({ baseId, id }) => ({
        id,
        baseId: this.knowsBases ? baseId : "",
        phase: CheckpointPhase.SENT,
        sizeBytes: 3,
        wholeBytes: 4,
        memoryBytes: 2,
        blackoutMs: 1,
      })),
      ...kept.map(({ id }) => ({
        id,
        phase: this.lostCheckpoints.has(id) ? CheckpointPhase.TAKING : CheckpointPhase.STORED,
        sizeBytes: 3,
      })),
    ];
    return reports.map((one) => CheckpointReport.fromPartial(one));
  }

  #report(): void {
    if (this.#reporting !== undefined) {
      this.#reportAgain = true;
      return;
    }
    this.#reportAgain = false;
    this.#reporting = this.#sendReport().finally(() => {
      this.#reporting = undefined;
      if (this.#reportAgain && !this.#muted) this.#report();
    });
  }

  async #sendReport(): Promise<void> {
    if (this.#muted || this.#connection.isClosed()) return;
    const report = Report.fromPartial({
      ...this.#book.next({
        info: this.info,
        images: [],
        sights: [...this.held].map(([containerId, { epoch, exitCode, generation, state }]) =>
          sampleSight({ containerId, epoch, state, exitCode, restartGeneration: generation }),
        ),
        checkpoints: this.#checkpointReports(),
        nowMs: performance.now(),
      }),
      incarnation: this.incarnation,
      desiredRevision: this.#orders.revision,
      desiredEpoch: this.#orders.leaderEpoch,
      ...(this.hasFence ? (this.#leaseMs === undefined ? {} : { fenceMs: this.#leaseMs }) : { fenceMs: 0 }),
      migrations: [...this.#migrations.values()],
    });
    let reply: ReportReply;
    const sentAtMs = performance.now();
    try {
      const message = await this.#connection.request(
        reportSubject(this.info.name),
        Report.encode(report).finish(),
        {
          timeout: 1_000,
        },
      );
      reply = ReportReply.decode(message.data);
    } catch {
      return; // no leader right now: the next report is due soon anyway
    }
    if (reply.fullWanted) {
      this.#book.startAnew();
      this.#reportAgain = true;
      return;
    }
    this.#book.acknowledge(reply.acknowledged);
    this.replies.push(reply);
    if (reply.accepted) {
      this.#leaseMs = reply.fencing ? reply.leaseMs : 0;
      this.#leaseUntilMs = this.hasFence && reply.fencing ? sentAtMs + reply.leaseMs : Infinity;
    }
    if (reply.desired !== undefined) this.#take(reply.desired);
    if (this.#orders.hasMissed(reply)) this.#reportAgain = true;
  }
}
