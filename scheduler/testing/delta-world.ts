/**
 * A leader and agents that tell each other what has changed, over a network that loses, doubles and reorders. Whatever
 * either side takes in is held against what the other one had at that moment.
 */
import { Orders } from "../../proto/contract/orders.ts";
import { ReportBook, type Sight } from "../../proto/contract/report-book.ts";
import { desiredSubject, reportSubject } from "../../proto/contract/subjects.ts";
import {
  Desired,
  MigrationReport,
  Report,
  ReportReply,
  type MigrationPhase,
} from "../../proto/gen/godwit/v1/agent.ts";
import { CheckpointPhase, CheckpointReport } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { AllocationState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { DesiredSender } from "../leader/desired-sender.ts";
import { ReportService } from "../leader/report-service.ts";
import { Reports } from "../leader/reports.ts";
import type { Incoming } from "../log/link.ts";
import { desiredFor, peersOf } from "../plan/desired.ts";
import { planObserved } from "../plan/observe.ts";
import type { Volatile } from "../plan/volatile.ts";
import { apply } from "../state/apply.ts";
import type { Cluster } from "../state/cluster.ts";
import { Drive } from "./drive.ts";
import { sampleNode, sampleSight, silent } from "./sample.ts";

const LEASE_MS = 1_000_000;

/** What is wanted of a node, as text. */
const wantedText = (cluster: Cluster, volatile: Volatile, node: string): string => {
  const content = desiredFor(cluster, volatile, node) ?? {};
  // As it arrives: what is left out of a message and what is empty are the same.
  return textOf(Desired.fromPartial({ ...content, peers: peersOf(cluster) }));
};
const textOf = (desired: Desired): string => {
  const { allocations, keptCheckpoints, network, peers } = Desired.decode(Desired.encode(desired).finish());
  return JSON.stringify([
    allocations.toSorted((a, b) => (a.containerId < b.containerId ? -1 : 1)),
    keptCheckpoints.toSorted((a, b) => (a.id < b.id ? -1 : 1)),
    network,
    peers.toSorted((a, b) => (a.node < b.node ? -1 : 1)),
  ]);
};

interface Held {
  epoch: number;
  state: AllocationState;
  exitCode: number;
  usec: number;
}

class Agent {
  readonly name: string;
  readonly session: number;
  readonly orders = new Orders();
  readonly book: ReportBook;
  readonly held: Map<string, Held>;
  readonly kept = new Set<string>();
  migrations: MigrationReport[] = [];
  images: string[] = [];
  /** Until a leader has answered, orders that come by themselves may be of long ago. */
  isIntroduced = false;

  constructor(name: string, session: number, held = new Map<string, Held>()) {
    this.name = name;
    this.session = session;
    this.book = new ReportBook(session);
    this.held = held;
  }
  get text(): string {
    const { allocations, keptCheckpoints, network, peers } = this.orders;
    return textOf(
      Desired.fromPartial({
        allocations: [...allocations.values()],
        keptCheckpoints: [...keptCheckpoints.values()],
        peers,
        ...(network === undefined ? {} : { network }),
      }),
    );
  }
  /** What a leader has to know of it after this report. */
  get seenText(): string {
    return JSON.stringify([
      [...this.held]
        .map(([id, { epoch, exitCode, state }]) => [id, epoch, state, exitCode].join())
        .toSorted(),
      [...this.kept].toSorted(),
      this.images.toSorted(),
    ]);
  }
  sights(): Sight[] {
    return [...this.held].map(([containerId, { epoch, exitCode, state, usec }]) =>
      sampleSight({ containerId, epoch, state, exitCode }, () => ({
        memoryBytes: 1,
        cpuUsageUsec: usec,
        pids: 1,
        healthOutput: "",
      })),
    );
  }
}

/** Something under way; `run` is its arrival. */
interface Underway {
  readonly run: () => void | Promise<void>;
}

class Leader {
  readonly epoch: number;
  readonly reports: Reports;
  readonly sender: DesiredSender;
  readonly service: ReportService;
  take: (message: Incoming) => void = () => undefined;

  constructor(world: DeltaWorld, epoch: number) {
    this.epoch = epoch;
    this.reports = new Reports(LEASE_MS, 0);
    this.sender = new (class extends DesiredSender {
      override refresh(cluster: Cluster, volatile: Volatile, node: string): boolean {
        const isChanged = super.refresh(cluster, volatile, node);
        if (isChanged)
          world.wanted.set(`${epoch} ${this.revisionOf(node)} ${node}`, wantedText(cluster, volatile, node));
        return isChanged;
      }
    })(
      {
        maxPayloadBytes: world.maxPayloadBytes,
        publish: (subject, bytes) => world.published(subject, bytes),
      },
      epoch,
      (node, ids) => {
        this.reports.reopen(node, ids);
        this.service.suspect(node, ids);
      },
    );
    this.service = new ReportService({
      link: {
        subscribe: (_, take) => {
          this.take = take;
          return { [Symbol.dispose]: () => undefined };
        },
      },
      cluster: world.drive.cluster,
      reports: this.reports,
      sender: this.sender,
      propose: (command) => Promise.resolve(world.drive.try(command)),
      leading: () => world.leader === this,
      leaseMs: LEASE_MS,
      nowMs: () => world.nowMs,
      machine: { monotonicMs: () => 0, soon: () => ({ [Symbol.dispose]: () => undefined }) },
      logger: silent,
      onReport: () => undefined,
    });
  }

  /** As the leader looks at everything after a change. */
  look(cluster: Cluster): void {
    for (const node of new Set([...cluster.touched.keys(), ...this.sender.hurried(cluster)]))
      if (!this.reports.nodes.has(node)) {
        cluster.touched.delete(node);
        this.sender.forget(node);
      } else if (this.sender.refresh(cluster, this.reports, node)) {
        this.reports.outdate(node);
        this.sender.publish(cluster, this.reports, node);
      }
    this.reports.forget(cluster);
  }
}

export class DeltaWorld {
  readonly drive = new Drive("n1", "n2", "n3");
  readonly agents = new Map<string, Agent>();
  readonly maxPayloadBytes: number;
  /** What a node was to know at a revision. */
  readonly wanted = new Map<string, string>();
  /** What agents saw, and what they had been told, at their reports. */
  readonly #told = new Map<string, { readonly seen: string; readonly orders: string }>();
  readonly faults: string[] = [];
  readonly counts = { full: 0, delta: 0, reportBytes: 0, gaps: 0, fullWanted: 0, parts: 0 };
  nowMs = 1_000;
  leader: Leader;
  #underway: Underway[] = [];
  #sessions = 0;

  constructor(maxPayloadBytes = 1_048_576) {
    this.maxPayloadBytes = maxPayloadBytes;
    this.drive.cluster.touched.clear();
    this.leader = new Leader(this, this.drive.cluster.state.epoch);
    for (const name of ["n1", "n2", "n3"]) this.agents.set(name, this.#begin(name));
  }
  #begin(name: string, held?: Map<string, Held>): Agent {
    return new Agent(name, (this.#sessions += 1), held);
  }
  agent(name: string): Agent {
    const agent = this.agents.get(name);
    if (agent === undefined) throw new Error(`there is no agent ${name}`);
    return agent;
  }

  restart(name: string): void {
    this.agents.set(name, this.#begin(name, this.agent(name).held));
  }
  elect(): void {
    const { cluster } = this.drive;
    // No later leader numbers its orders as an earlier one did: its log is longer.
    cluster.state.lastSequence += 1;
    this.drive.epoch(cluster.state.epoch + 1);
    cluster.touched.clear();
    cluster.peers.changed.clear();
    this.leader = new Leader(this, cluster.state.epoch);
  }

  /** As it is applied from the log. */
  command(one: Command): void {
    const { cluster } = this.drive;
    cluster.state.lastSequence += 1;
    apply(cluster, one, { atMs: this.drive.atMs, epoch: cluster.state.epoch });
  }

  look(): void {
    this.leader.look(this.drive.cluster);
    this.#comparePlans();
    this.leader.reports.fresh.clear();
  }
  /** Looking only at what has changed finds what looking at everything finds. */
  #comparePlans(): void {
    const { cluster } = this.drive;
    const { reports } = this.leader;
    const everything = new Map(
      [...reports.nodes].map(([name, seen]) => {
        const open = new Set([...seen.allocations.keys(), ...(cluster.index.onNode.get(name) ?? [])]);
        const { allocations, checkpoints, current, images, info, report } = seen;
        return [name, { allocations, checkpoints, current, images, info, open, report }] as const;
      }),
    );
    const { balancer, fresh, leaderSinceMs, migrations } = reports;
    const all: Volatile = {
      nodes: everything,
      fresh,
      migrations,
      leaderSinceMs,
      balancer,
      leaseUntilMs: () => 0,
      fencedFromMs: () => 0,
    };
    const text = (commands: Command[]): string =>
      JSON.stringify(commands.map((one) => JSON.stringify(one)).toSorted());
    const expected = text(planObserved(cluster, all));
    const found = text(planObserved(cluster, reports));
    if (found !== expected) this.faults.push(`of what was seen is planned ${found} instead of ${expected}`);
  }

  /** The agent's report, and with its arrival the answer, are on their way. */
  report(name: string): void {
    const agent = this.agent(name);
    const told = agent.book.next({
      // Who may report is another story.
      info: this.drive.cluster.state.nodes[name]?.info ?? sampleNode(name),
      images: agent.images,
      sights: agent.sights(),
      checkpoints: [...agent.kept].map((id) =>
        CheckpointReport.fromPartial({ id, phase: CheckpointPhase.STORED }),
      ),
      nowMs: this.nowMs,
    });
    const { leaderEpoch, revision } = agent.orders;
    const incarnation = this.drive.cluster.state.nodes[name]?.incarnation ?? `i-${name}`;
    const data = Report.encode(
      Report.fromPartial({
        ...told,
        incarnation,
        migrations: agent.migrations,
        desiredRevision: revision,
        desiredEpoch: leaderEpoch,
      }),
    ).finish();
    this.counts.reportBytes = data.length;
    this.counts[told.base === 0 ? "full" : "delta"] += 1;
    this.#told.set(`${name} ${told.session} ${told.number}`, { seen: agent.seenText, orders: agent.text });
    const respond = (bytes: Uint8Array): void =>
      void this.#underway.push({ run: () => this.#answer(agent, bytes) });
    this.#underway.push({
      run: async () => {
        this.leader.take({ subject: reportSubject(name), data, respond });
        // A join is awaited.
        for (let turn = 0; turn < 8; turn += 1) await Promise.resolve();
        this.#check(name);
      },
    });
  }
  #answer(agent: Agent, bytes: Uint8Array): void {
    // Of an agent that has ended.
    if (this.agents.get(agent.name) !== agent) return;
    const { acknowledged, desired, fullWanted, leaderEpoch } = ReportReply.decode(bytes);
    if (fullWanted) {
      this.counts.fullWanted += 1;
      agent.book.startAnew();
      return;
    }
    if (leaderEpoch < agent.orders.leaderEpoch) return;
    agent.isIntroduced = true;
    agent.book.acknowledge(acknowledged);
    if (desired !== undefined) this.#take(agent, desired);
  }

  published(subject: string, bytes: Uint8Array): void {
    for (const agent of this.agents.values())
      if (desiredSubject(agent.name) === subject)
        this.#underway.push({
          run: () => {
            if (this.agents.get(agent.name) === agent && agent.isIntroduced)
              this.#take(agent, Desired.decode(bytes));
          },
        });
  }
  #take(agent: Agent, desired: Desired): void {
    const before = agent.text;
    const { kind } = agent.orders.take(desired);
    if (kind === "gap") this.counts.gaps += 1;
    if (kind === "part") this.counts.parts += 1;
    if (kind !== "taken") {
      if (before !== agent.text) this.faults.push(`${agent.name} has followed what it must not (${kind})`);
      return;
    }
    const { leaderEpoch, revision } = agent.orders;
    const wanted = this.wanted.get(`${leaderEpoch} ${revision} ${agent.name}`);
    if (wanted !== agent.text)
      this.faults.push(`${agent.name} has made ${agent.text} of revision ${revision}, which was ${wanted}`);
  }

  /** Holds what the leader knows against what the agent has told. */
  #check(name: string): void {
    const seen = this.leader.reports.nodes.get(name);
    if (seen === undefined) return;
    const told = this.#told.get(`${name} ${seen.place.session} ${seen.place.number}`);
    const text = JSON.stringify([
      [...seen.allocations.values()]
        .map(({ containerId, epoch, exitCode, state }) => [containerId, epoch, state, exitCode].join())
        .toSorted(),
      [...seen.checkpoints.keys()].toSorted(),
      [...seen.images].toSorted(),
    ]);
    if (text !== told?.seen)
      this.faults.push(
        `the leader has made ${text} of report ${seen.place.number} of ${name}: ${told?.seen}`,
      );
    const { cluster } = this.drive;
    if (!seen.current || cluster.touched.has(name) || cluster.state.nodes[name] === undefined) return;
    if (told?.orders !== wantedText(cluster, this.leader.reports, name))
      this.faults.push(
        `${name} counts as one that knows its orders, and does not: ${told?.orders} but ${wantedText(cluster, this.leader.reports, name)}`,
      );
  }

  get underway(): number {
    return this.#underway.length;
  }
  /** `at` is any number: of which message it is. */
  async deliver(at: number, what: "keep" | "lose" | "repeat"): Promise<void> {
    const index = at % Math.max(1, this.#underway.length);
    const one = this.#underway[index];
    if (one === undefined) return;
    if (what !== "repeat") this.#underway.splice(index, 1);
    if (what !== "lose") await one.run();
  }
  /** Nothing is lost any more, and nothing changes. */
  async quiesce(): Promise<void> {
    for (let round = 0; round < 6; round += 1) {
      this.nowMs += 2_000;
      this.look();
      for (const name of this.agents.keys()) this.report(name);
      while (this.#underway.length > 0) await this.deliver(0, "keep");
    }
    const { cluster } = this.drive;
    for (const agent of this.agents.values()) {
      const { name } = agent;
      if (agent.text !== wantedText(cluster, this.leader.reports, name))
        this.faults.push(`${name} is not where it is to be`);
      const seen = this.leader.reports.nodes.get(name);
      if (seen?.current !== true) this.faults.push(`${name} does not count as one that knows its orders`);
      for (const [id, { usec }] of agent.held)
        if (seen?.allocations.get(id)?.cpuUsageUsec !== usec)
          this.faults.push(`the use of ${id} on ${name} is not known`);
    }
  }

  /** As an agent sees it. */
  see(name: string, id: string, held: Held | undefined): void {
    if (held === undefined) this.agent(name).held.delete(id);
    else this.agent(name).held.set(id, held);
  }
  migrate(name: string, id: string, phase: MigrationPhase): void {
    const containerId = this.drive.cluster.state.migrations[id]?.containerId ?? "";
    this.agent(name).migrations = [MigrationReport.fromPartial({ id, containerId, phase })];
  }
}
