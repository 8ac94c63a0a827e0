/**
 * What a scheduler does while it leads. It reacts to reports and to log entries at once, not at the tick of a clock,
 * because a frozen container waits for some of them; what lies in one turn of the event loop is taken together.
 */
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import type { Committer } from "../log/committer.ts";
import type { Link } from "../log/link.ts";
import { idFrom, type Machine } from "../log/machine.ts";
import { WaitingRoom } from "../plan/placement/waiting-room.ts";
import { placeAtOnce } from "../plan/place-at-once.ts";
import { reconcile } from "../plan/reconcile.ts";
import type { Cluster } from "../state/cluster.ts";
import { DesiredSender } from "./desired-sender.ts";
import { ReportService } from "./report-service.ts";
import { Reports } from "./reports.ts";

export interface LeaderOptions {
  readonly link: Link;
  readonly machine: Machine;
  readonly committer: Committer;
  readonly leaseMs: number;
  /** Of this leader: for so long after it was last certain that it leads, it acts. */
  readonly leaderLeaseMs: number;
  readonly logger: Logger;
  /** After reports and after each round. */
  readonly onChange: () => void;
}

export class Leader implements AsyncDisposable {
  readonly reports: Reports;
  /** Of its leadership; orders carry it. */
  readonly epoch: number;
  /** The clock of leases and limits. */
  readonly nowMs: () => number;
  readonly #options: LeaderOptions;
  readonly #sender: DesiredSender;
  readonly #waiting = new WaitingRoom();
  readonly #service: ReportService;
  readonly #ticker: Disposable;
  readonly #onReconnect: Disposable;
  readonly #tickMs: number;
  #lastTickMs: number;
  #scheduled: Disposable | undefined;
  #round: Promise<void> | undefined;
  /** Something happened while a round was under way. */
  #again = false;
  /** The clock has ticked since the last round. */
  #isTick = true;
  #stopped = false;
  #confirming = false;

  constructor(options: LeaderOptions) {
    const { committer, leaderLeaseMs, leaseMs, link, logger, machine } = options;
    // The time of day at the beginning, and from then on a clock that nobody can set; not behind what is in the log.
    const originMs = Math.max(machine.nowMs(), committer.replica.lastAtMs) - machine.monotonicMs();
    const nowMs = (): number => Math.floor(originMs + machine.monotonicMs());
    this.nowMs = nowMs;
    this.#options = options;
    this.epoch = this.#cluster.state.epoch;
    this.#lastTickMs = nowMs();
    this.reports = new Reports(leaseMs, this.#lastTickMs);
    // A leader before us may have renewed leases for so long after our election, of which it had not heard.
    this.reports.grace(this.#lastTickMs + leaderLeaseMs);
    this.#sender = new DesiredSender(link, this.epoch, (node, containers) => {
      this.reports.reopen(node, containers);
      this.#service.suspect(node, containers);
    });
    this.#service = new ReportService({
      link,
      cluster: this.#cluster,
      reports: this.reports,
      sender: this.#sender,
      propose: (command) => committer.propose(command),
      leading: () => this.#acts,
      leaseMs,
      nowMs,
      machine,
      logger,
      onReport: (isNews) => {
        options.onChange();
        if (isNews) this.wake();
      },
    });
    this.#tickMs = Math.max(20, Math.min(500, Math.floor(leaseMs / 5), Math.floor(leaderLeaseMs / 6)));
    this.#ticker = machine.every(this.#tickMs, () => this.#tick());
    this.#onReconnect = link.onReconnect(() => {
      this.reports.grace(nowMs());
      this.wake();
    });
    this.wake();
  }

  get #cluster(): Cluster {
    return this.#options.committer.replica.cluster;
  }

  /** Orders and leases that leave this process must not come from one that was deposed. */
  get #acts(): boolean {
    const { committer, leaderLeaseMs } = this.#options;
    return !this.#stopped && committer.confirmedWithin(leaderLeaseMs);
  }

  /** Placements of the containers that these commands create. */
  placeAtOnce(commands: readonly Command[]): Command[] {
    return this.#stopped ? [] : placeAtOnce(this.#cluster, this.reports, commands);
  }

  /** Looks at everything at the end of this turn of the event loop. */
  wake(): void {
    if (this.#stopped) return;
    this.#scheduled ??= this.#options.machine.soon(() => {
      this.#scheduled = undefined;
      try {
        this.#look();
      } catch (error) {
        // One that comes back at every look must not take the whole scheduler down with it.
        this.#options.logger.error({ err: error }, "the leader's look at the cluster failed");
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    this.#ticker[Symbol.dispose]();
    this.#scheduled?.[Symbol.dispose]();
    this.#service[Symbol.dispose]();
    this.#onReconnect[Symbol.dispose]();
    await this.#round;
  }

  #tick(): void {
    const now = this.nowMs();
    // The process itself stood still (suspended, or starved), or has more to do than it can: reports lie here, unread.
    const lateMs = Math.max(now - this.#lastTickMs - this.#tickMs, this.#service.lateMs);
    if (lateMs > this.#options.leaseMs / 3) this.reports.grace(now);
    this.#lastTickMs = now;
    this.#isTick = true;
    this.#confirm();
    this.wake();
  }

  /** In time before it is in doubt again who leads; at once where it is. */
  #confirm(): void {
    const { committer, leaderLeaseMs, link, logger } = this.#options;
    if (this.#confirming || !link.connected || committer.confirmedWithin(leaderLeaseMs / 4)) return;
    const doubted = !this.#acts;
    this.#confirming = true;
    void committer
      .confirm()
      .then(
        () => {
          if (doubted) this.wake();
        },
        (error: unknown) => logger.debug({ err: error }, "it could not be made sure who leads"),
      )
      .finally(() => {
        this.#confirming = false;
      });
  }

  #look(): void {
    const { link } = this.#options;
    if (!this.#acts || !link.connected) return;
    this.reports.forget(this.#cluster);
    this.#sendDesired();
    if (this.#round !== undefined) {
      this.#again = true;
      return;
    }
    this.#again = false;
    this.#round = this.#reconcile().finally(() => {
      this.#round = undefined;
      if (this.#again) this.wake();
    });
  }

  /** Of nodes that show another key than the one that they joined with. */
  get refusedKeys(): Iterable<string> {
    return this.#service.refusedKeys.values();
  }

  /** Nodes whose Desired is larger than NATS takes in one message, with its size. */
  get oversized(): ReadonlyMap<string, number> {
    return this.#sender.oversized;
  }

  /** Nodes that have not reported get theirs with the answer to their first report, when what they do is known. */
  #sendDesired(): void {
    const cluster = this.#cluster;
    for (const node of new Set([...cluster.touched.keys(), ...this.#sender.hurried(cluster)])) {
      if (!this.reports.nodes.has(node)) {
        cluster.touched.delete(node);
        this.#sender.forget(node);
      } else if (this.#sender.refresh(cluster, this.reports, node)) {
        this.reports.outdate(node);
        this.#sender.publish(cluster, this.reports, node);
      }
    }
  }

  async #reconcile(): Promise<void> {
    const { committer, leaseMs, logger, machine, onChange } = this.#options;
    try {
      const commands = reconcile(this.#cluster, this.reports, {
        leaseMs,
        isTick: this.#isTick,
        nowMs: this.nowMs(),
        newId: () => idFrom(machine),
        waiting: this.#waiting,
        newKey: () => Buffer.from(machine.randomHex(32), "hex"),
      });
      this.#isTick = false;
      this.reports.fresh.clear();
      if (commands.length === 0) return;
      const outcomes = await Promise.all(commands.map((command) => committer.propose(command)));
      for (const [at, outcome] of outcomes.entries())
        if (outcome !== undefined)
          logger.info({ command: commands[at]?.command, outcome }, "a planned step was overtaken");
      // What was applied may call for the next step; what was rejected waits for news, or it would be tried without end.
      if (outcomes.some((outcome) => outcome === undefined)) this.#again = true;
      onChange();
    } catch (error) {
      const failure = GodwitError.from(error);
      if (failure.code === "unavailable")
        logger.warn({ err: failure }, "planned steps could not be written to the log");
      else logger.error({ err: failure }, "a round of the leader failed");
    }
  }
}
