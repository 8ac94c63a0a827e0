import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import { CONTAINER_GONE_SUBJECT, desiredSubject } from "../../proto/contract/subjects.ts";
import { Orders } from "../../proto/contract/orders.ts";
import type { Sight } from "../../proto/contract/report-book.ts";
import { Desired, type MigrationReport, type ReportReply } from "../../proto/gen/godwit/v1/agent.ts";
import type { CheckpointReport } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { Allocation } from "../allocation/allocation.ts";
import { CONTAINERS_CGROUP } from "../container/paths.ts";
import { listContainers } from "../container/record-store.ts";
import type { Host } from "../host.ts";
import { Inspector } from "../obstacles/inspector.ts";

/** How often it is looked whether the containers that should run still do, beside the shim's word. */
const CHECK_MS = 1_000;

/** All containers of this host, and the orders that they follow. */
export class Node implements AsyncDisposable {
  readonly #host: Host;
  readonly #logger: Logger;
  readonly #allocations = new Map<string, Allocation>();
  readonly #changed: () => void;
  /** A container is about to leave this host with everything that it has here. */
  onLeave: (containerId: string, reason: "moved" | "removed") => Promise<void> = () => Promise.resolve();
  readonly #orders = new Orders();
  /** The network is not as it should be (yet). */
  #isNetworkBehind = false;
  #networking: Promise<void> = Promise.resolve();
  /** Until a leader has answered this agent, an order that comes by itself may be one of long ago. */
  #isIntroduced = false;
  #networkFailure = "";
  #portFailure = "";
  readonly #abort = new AbortController();
  readonly #tasks: Promise<void>[] = [];
  readonly #inspector: Inspector;

  constructor(host: Host, changed: () => void) {
    this.#host = host;
    this.#logger = host.logger;
    this.#changed = changed;
    this.#inspector = new Inspector({
      containers: () =>
        [...this.#allocations.values()].map((allocation) => ({
          id: allocation.id,
          initPid: allocation.livingInit,
          pids: () => allocation.runtime.cgroup.processes(),
          watchedPaths: allocation.runtime.watchedPaths,
        })),
      changed,
      logger: host.logger,
    });
  }

  /** Takes over what an earlier agent left, and begins to follow orders. */
  start(): void {
    for (const id of listContainers(this.#host.config)) this.#allocation(id);
    const subscription = this.#host.connection.subscribe(desiredSubject(this.#host.config.node));
    const gone = this.#host.connection.subscribe(CONTAINER_GONE_SUBJECT);
    for (const one of [subscription, gone])
      this.#abort.signal.addEventListener("abort", () => one.unsubscribe(), { once: true });
    this.#tasks.push(
      (async () => {
        for await (const message of subscription) {
          try {
            if (this.#isIntroduced) await this.#follow(Desired.decode(message.data));
          } catch (error) {
            this.#logger.error({ err: error }, "an order could not be read");
          }
        }
      })(),
      (async () => {
        for await (const exit of this.#host.shim.exits) {
          this.#allocations.get(exit.container)?.onExit(exit.initPid, exit.code);
        }
      })(),
      (async () => {
        for await (const message of gone) {
          const id = message.string();
          try {
            await this.#host.held.forget(id);
          } catch (error) {
            this.#logger.error(
              { err: error, container: id },
              "what is held of its memory could not be removed",
            );
          }
        }
      })(),
      this.#followShims(),
    );
    this.#inspector.start();
    const timer = setInterval(() => {
      for (const allocation of this.#allocations.values()) allocation.check();
      void this.#configureNetwork();
      void this.#publishPorts(() => this.#host.ports.catchUp());
    }, CHECK_MS);
    this.#abort.signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  }

  /** A shim in the place of one that died knows nothing: until it has the pipes again, containers fill them and wait. */
  async #followShims(): Promise<void> {
    let isFirst = true;
    for await (const { shimPid } of this.#host.shim.shims) {
      const adopted = isFirst; // by the allocations themselves, when they were made
      isFirst = false;
      if (adopted) continue;
      this.#logger.info({ shimPid }, "another shim answers");
      for (const { id, record, runtime } of this.#allocations.values()) {
        if (record?.status.kind !== "running") continue;
        try {
          await runtime.reattachOutput(record.status.init);
        } catch (error) {
          this.#logger.error(
            { err: error, container: id },
            "the new shim could not be given the container's output",
          );
        }
      }
    }
  }

  get revision(): number {
    return this.#orders.revision;
  }

  get leaderEpoch(): number {
    return this.#orders.leaderEpoch;
  }

  /** A leader has answered; `desired`: what it has for this host beside what is known here, or on its way. */
  async followAnswer(answer: Pick<ReportReply, "desired" | "desiredRevision">): Promise<void> {
    this.#isIntroduced = true;
    if (answer.desired !== undefined) await this.#follow(answer.desired);
    if (this.#orders.hasMissed(answer)) this.#changed();
  }

  /** Takes orders in, unless newer ones have been, or they begin at some that have not. */
  async #follow(desired: Desired): Promise<void> {
    const { base, leaderEpoch, revision } = desired;
    const orders = this.#orders;
    const isSame = leaderEpoch === orders.leaderEpoch && revision === orders.revision;
    const taken = orders.take(desired);
    if (taken.kind === "older" && !isSame)
      this.#logger.warn({ leaderEpoch, revision }, "an order that is older than the present one is refused");
    if (taken.kind === "gap") {
      this.#logger.info({ leaderEpoch, revision, base }, "orders were lost: the leader is asked for them");
      this.#changed();
    }
    if (taken.kind !== "taken") return;
    // All containers know in one go what is wanted of them, and other orders may come while the rest is awaited.
    const closing: Promise<void>[] = [];
    for (const [id, allocation] of this.#allocations) {
      if (orders.allocations.has(id)) continue;
      if (allocation.isGone) {
        this.#allocations.delete(id);
        closing.push(allocation.close());
      } else allocation.setDesired(undefined);
    }
    for (const id of taken.changed) this.#allocation(id).setDesired(orders.allocations.get(id));
    this.#host.checkpoints.follow([...orders.keptCheckpoints.values()]);
    this.#host.checkpoints.forgetCutOff((id) =>
      orders.allocations.values().some(({ checkpoint }) => checkpoint?.id === id),
    );
    await Promise.all(closing);
    if (base === 0 || desired.network !== undefined || desired.peers.length > 0 || desired.allPeers)
      this.#isNetworkBehind = true;
    await this.#configureNetwork();
    await this.#publishPorts(() => this.#host.ports.publish([...orders.allocations.values()]));
    this.#changed();
  }

  /** One at a time, each as it is wanted when it begins. */
  async #configureNetwork(): Promise<void> {
    this.#networking = this.#networking.then(async () => {
      const { network, peers } = this.#orders;
      if (!this.#isNetworkBehind || network === undefined) return;
      this.#isNetworkBehind = false;
      try {
        await this.#host.network.configure(network, peers);
        this.#networkFailure = "";
      } catch (error) {
        this.#isNetworkBehind = true;
        // It is tried with each answered report, and said once.
        const { message } = GodwitError.from(error);
        if (message !== this.#networkFailure)
          this.#logger.error({ err: error }, "the container network could not be set up");
        this.#networkFailure = message;
      }
    });
    await this.#networking;
  }

  /**
   * The lease is renewed after its end. What still belongs to this host goes on; everything else, such as what has been
   * started elsewhere meanwhile, keeps standing still, off the network, until it is removed.
   */
  async reopen(): Promise<void> {
    this.#host.cgroups.container(CONTAINERS_CGROUP).holdEach();
    for (const allocation of this.#allocations.values()) await allocation.unplugUnlessOurs();
    if (!(await this.#host.fence.lift())) return;
    for (const allocation of this.#allocations.values()) allocation.goOn();
    this.#logger.info("the lease is renewed: what belongs to this host goes on");
  }

  async #publishPorts(publish: () => Promise<void>): Promise<void> {
    try {
      await publish();
      this.#portFailure = "";
    } catch (error) {
      // It is tried with each answered report, and said once.
      const { message } = GodwitError.from(error);
      if (message !== this.#portFailure)
        this.#logger.error({ err: error }, "published ports do not lead to their containers");
      this.#portFailure = message;
    }
  }

  container(id: string): Allocation | undefined {
    return this.#allocations.get(id);
  }

  get containers(): Iterable<Allocation> {
    return this.#allocations.values();
  }

  sights(): Sight[] {
    const findings = (id: string, initPid: number) => this.#inspector.findings(id, initPid);
    return [...this.#allocations.values()].flatMap((allocation) => allocation.sight(findings) ?? []);
  }

  /** Of what is taken here, and of what is kept. */
  checkpointReports(): CheckpointReport[] {
    const taken = [...this.#allocations.values()].flatMap(({ checkpointReport }) => checkpointReport ?? []);
    const reports = new Map<string, CheckpointReport>();
    for (const one of [...taken, ...this.#host.checkpoints.reports()])
      if (!reports.has(one.id)) reports.set(one.id, one);
    return [...reports.values()];
  }

  migrationReports(): MigrationReport[] {
    const reports: MigrationReport[] = [];
    for (const allocation of this.#allocations.values()) {
      const report = allocation.migrationReport();
      if (report !== undefined) reports.push(report);
    }
    return reports;
  }

  #allocation(id: string): Allocation {
    let allocation = this.#allocations.get(id);
    if (allocation === undefined) {
      allocation = new Allocation(this.#host, id, {
        changed: this.#changed,
        leaves: (reason) => this.onLeave(id, reason),
      });
      this.#allocations.set(id, allocation);
    }
    return allocation;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#inspector[Symbol.asyncDispose]();
    await Promise.all([...this.#allocations.values()].map((allocation) => allocation.close()));
  }
}
