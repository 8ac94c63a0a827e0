import type { NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";

import { ReportBook } from "../../proto/contract/report-book.ts";
import { reportSubject } from "../../proto/contract/subjects.ts";
import { Report, ReportReply } from "../../proto/gen/godwit/v1/agent.ts";
import { bootTimeNs } from "../native/boot-clock.ts";
import type { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import type { Pressure } from "../../proto/gen/godwit/v1/spec.ts";
import type { Host } from "../host.ts";
import { measureLoad } from "./host-info.ts";
import type { Node } from "./node.ts";
import { OwnLimits } from "./own-limits.ts";
import { groupPressure, hostPressure } from "./pressure.ts";

/** While no leader says otherwise. */
const INTERVAL_MS = 1_000;
/** Whatever one says: a lease has to outlive a report that is lost. */
const REPORTS_PER_LEASE = 3;
const ANSWER_WITHIN_MS = 3_000;

/**
 * Tells the leader what is here: each second, or as seldom as the leader of many nodes asks for, which renews the node's
 * lease, and at once when something changed.
 * One report is under way at a time; changes meanwhile are in the next one.
 */
export class Reporter implements AsyncDisposable {
  readonly #connection: NatsConnection;
  readonly #logger: Logger;
  readonly #host: Host;
  readonly #info: NodeInfo;
  readonly #incarnation: string;
  #wake: PromiseWithResolvers<void> = Promise.withResolvers();
  #loop: Promise<void> = Promise.resolve();
  #closed = false;
  #images: string[] = [];
  #answered: boolean | undefined;
  #intervalMs = INTERVAL_MS;
  readonly #book: ReportBook;
  readonly #ownLimits = new OwnLimits();
  #previousCpu: { atMs: number; usageUsec: number } | undefined;

  constructor(host: Host, info: NodeInfo, incarnation: string) {
    this.#host = host;
    this.#connection = host.connection;
    this.#logger = host.logger;
    this.#info = info;
    this.#incarnation = incarnation;
    this.#book = new ReportBook(Number(bootTimeNs() / 1_000n));
  }

  start(node: Node): void {
    this.#loop = this.#run(node);
  }

  /** Something changed: report soon. */
  readonly wake = (): void => {
    this.#wake.resolve();
  };

  async #run(node: Node): Promise<void> {
    let imagesAtMs = 0;
    while (!this.#closed) {
      this.#wake = Promise.withResolvers();
      if (Date.now() - imagesAtMs > 10_000) {
        this.#images = await this.#host.images.list();
        imagesAtMs = Date.now();
      }
      // The leader lacks what the report begins at: it is told everything at once.
      if ((await this.#report(node)) === "anew") await this.#report(node);
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([
        this.#wake.promise,
        new Promise<void>((resolve) => {
          timer = setTimeout(resolve, this.#intervalMs);
        }),
      ]);
      clearTimeout(timer);
    }
  }

  async #report(node: Node): Promise<"anew" | "done"> {
    const fenceMs = this.#host.fence.armedMs;
    const report = Report.fromPartial({
      ...this.#book.next({
        info: this.#info,
        images: this.#images,
        sights: node.sights(),
        checkpoints: node.checkpointReports(),
        nowMs: performance.now(),
      }),
      incarnation: this.#incarnation,
      migrations: node.migrationReports(),
      desiredRevision: node.revision,
      desiredEpoch: node.leaderEpoch,
      load: measureLoad(this.#host, this.#cpuMillisUsed(node), this.#pressure(node)),
      ...(fenceMs === undefined ? {} : { fenceMs }),
      fenceFault: this.#host.fence.fault,
      fenceClosed: this.#host.fence.isClosed,
    });
    // The lease begins with the question: when its answer comes, the scheduler has counted from earlier on than this host.
    const sentAtNs = bootTimeNs();
    this.#intervalMs = INTERVAL_MS;
    try {
      const message = await this.#connection.request(
        reportSubject(this.#host.config.node),
        Report.encode(report).finish(),
        {
          timeout: ANSWER_WITHIN_MS,
        },
      );
      const reply = ReportReply.decode(message.data);
      if (reply.fullWanted) {
        this.#book.startAnew();
        return "anew";
      }
      if (!reply.accepted) {
        this.#tell(false, reply.refusal);
        return "done";
      }
      // Of a leader that was deposed and does not know it yet: its word is worth nothing.
      if (reply.leaderEpoch !== 0 && reply.leaderEpoch < node.leaderEpoch) {
        this.#tell(false, `the answer is of epoch ${reply.leaderEpoch}; epoch ${node.leaderEpoch} has begun`);
        return "done";
      }
      this.#book.acknowledge(reply.acknowledged);
      this.#tell(true, "");
      this.#intervalMs = Math.max(
        INTERVAL_MS,
        Math.min(reply.reportEveryMs, reply.leaseMs / REPORTS_PER_LEASE),
      );
      await this.#host.fence.extend(sentAtNs, reply.fencing ? reply.leaseMs : 0);
      await node.followAnswer(reply);
      // Only by orders that are as new as the lease is it known what may still run here.
      if (this.#host.fence.isClosed && node.revision === reply.desiredRevision) await node.reopen();
    } catch (error) {
      this.#tell(false, error instanceof Error ? error.message : String(error));
    }
    return "done";
  }

  /** Once at each turn of luck, not each second. */
  #tell(answered: boolean, why: string): void {
    if (answered === this.#answered) return;
    this.#answered = answered;
    if (answered) this.#logger.info("the scheduler answers");
    else this.#logger.warn({ why }, "the scheduler does not answer or refuses");
  }

  #cpuMillisUsed(node: Node): number {
    const atMs = performance.now();
    let usageUsec = 0;
    for (const container of node.containers) usageUsec += container.runtime.cgroup.cpuUsageUsec();
    const previous = this.#previousCpu;
    this.#previousCpu = { atMs, usageUsec };
    if (previous === undefined || usageUsec < previous.usageUsec) return 0;
    return (usageUsec - previous.usageUsec) / Math.max(1, atMs - previous.atMs);
  }

  #pressure(node: Node): Pressure | undefined {
    const pressure = hostPressure(this.#host.cgroups.v2Root);
    if (pressure === undefined) return undefined;
    const containers = Array.from(node.containers, ({ id, runtime: { cgroup } }) => ({
      id,
      throttledUsec: () => cgroup.throttledUsec(),
      usedUsec: () => cgroup.cpuUsageUsec(),
      pressure: () =>
        cgroup.pressureFolder === undefined ? undefined : groupPressure(cgroup.pressureFolder),
    }));
    return this.#ownLimits.without(pressure, containers, performance.now());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#wake.resolve();
    await this.#loop;
  }
}
