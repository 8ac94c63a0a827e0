/** Answers the agents' reports: takes nodes in, renews leases, hands out Desired. */
import type { Logger } from "pino";
import { encoded } from "../../proto/contract/encoded.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { ALL_REPORTS_SUBJECT, nodeOfReport, reportSubject } from "../../proto/contract/subjects.ts";
import { Report, ReportReply, type ObservedAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import { NodeInfo, NodeState, type Command, type Node } from "../../proto/gen/godwit/v1/log.ts";
import type { Incoming, Link } from "../log/link.ts";
import type { Machine } from "../log/machine.ts";
import { reportIntervalMs } from "../model/lease.ts";
import { formatSeconds } from "../model/quantity.ts";
import { reportFault } from "../model/report-check.ts";
import { command } from "../plan/command.ts";
import type { Cluster } from "../state/cluster.ts";
import { keyCheck } from "../state/node-key.ts";
import type { Outcome } from "../state/rejection.ts";
import type { DesiredSender } from "./desired-sender.ts";
import type { Reports } from "./reports.ts";
import { SlicedWork } from "./sliced-work.ts";

export interface ReportServiceOptions {
  readonly link: Pick<Link, "subscribe">;
  readonly cluster: Cluster;
  readonly reports: Reports;
  readonly sender: DesiredSender;
  readonly propose: (command: Command) => Promise<Outcome>;
  readonly leading: () => boolean;
  readonly leaseMs: number;
  readonly nowMs: () => number;
  readonly machine: Pick<Machine, "monotonicMs" | "soon">;
  readonly logger: Logger;
  /** After every accepted report; `isNews`: the planners have something to look at. */
  readonly onReport: (isNews: boolean) => void;
}

/** Of `desired` in ReportReply, with its wire type. */
const DESIRED_TAG = (4 << 3) | 2;
const NO_REPLY = ReportReply.fromPartial({});

type Verdict =
  | { readonly kind: "accepted" }
  | { readonly kind: "refused"; readonly why: string }
  | { readonly kind: "silent" };

const sameInfo = (a: NodeInfo, b: NodeInfo): boolean =>
  Buffer.compare(NodeInfo.encode(a).finish(), NodeInfo.encode(b).finish()) === 0;

export class ReportService implements Disposable {
  readonly #options: ReportServiceOptions;
  /** Joins under way by node, so that a slow log does not pile them up. */
  readonly #joining = new Map<string, Promise<Verdict>>();
  /** By node, what is the matter with an agent that claims to be it with another key; for operators to see. */
  readonly refusedKeys = new Map<string, string>();
  /** Names that a second machine claims. */
  readonly #refusedNames = new Set<string>();
  /** By a description that was reported, the one in the log that is the same. */
  readonly #same = new WeakMap<NodeInfo, NodeInfo>();
  /** Copies of an old epoch that have been told of. */
  readonly #strangers = new Set<string>();
  /** By node, what may be such copies: looked at with its next report. */
  readonly #suspects = new Map<string, Set<string>>();
  readonly #incoming: SlicedWork<Incoming>;
  /** Reports are being left, since too many wait. */
  #isOverrun = false;
  readonly #subscription: Disposable;

  constructor(options: ReportServiceOptions) {
    this.#options = options;
    this.#incoming = new SlicedWork(options.machine, (message) => {
      void this.#answer(message).catch((failure: unknown) => {
        options.logger.error({ err: failure }, "a report could not be answered");
      });
    });
    this.#subscription = options.link.subscribe(ALL_REPORTS_SUBJECT, (message) => this.#take(message));
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
    this.#incoming[Symbol.dispose]();
  }

  /** For how long a report has been here and was not looked at. */
  get lateMs(): number {
    return this.#incoming.lateMs;
  }

  #take(message: Incoming): void {
    if (this.#incoming.add(message)) {
      // Told once for all that are left until none waits any more, and not once a turn.
      if (this.#incoming.size === 0) this.#isOverrun = false;
    } else if (!this.#isOverrun) {
      this.#isOverrun = true;
      this.#options.logger.warn("more reports come than can be answered: some are left, and come again");
    }
  }

  /** Does not answer while it does not know: the agent asks again, maybe another leader. */
  async #answer(message: Incoming): Promise<void> {
    const { leading, logger, reports } = this.#options;
    if (!leading()) return;
    const report = this.#decode(message);
    if (typeof report === "string") {
      this.#reply(message, { accepted: false, refusal: report });
      return;
    }
    const name = report.info?.name ?? nodeOfReport(message.subject);
    const known = reports.nodes.get(name);
    // Of one that tells only what has changed, the rest is known, or it is to tell all.
    const isSame = known?.place.incarnation === report.incarnation;
    const info = report.info ?? (isSame ? known.info : undefined);
    if (info === undefined) {
      this.#reply(message, { accepted: false, fullWanted: true });
      return;
    }
    if (message.subject !== reportSubject(info.name)) {
      const refusal = `a report of ${info.name} came as ${message.subject}, which is another node's`;
      logger.warn({ node: info.name, subject: message.subject }, refusal);
      this.#reply(message, { accepted: false, refusal });
      return;
    }
    const admission = this.#admit(info, report.incarnation);
    const verdict = admission instanceof Promise ? await admission : admission;
    if (verdict.kind === "silent" || !leading()) return;
    if (verdict.kind === "refused") this.#reply(message, { accepted: false, refusal: verdict.why });
    else this.#takeIn(message, name, report);
  }

  /** Of a node that may report. */
  #takeIn(message: Incoming, name: string, report: Report): void {
    const { cluster, leaseMs, nowMs, onReport, reports, sender } = this.#options;
    const known = reports.nodes.get(name);
    if (known?.hasNewerAgent(report) === true) {
      const refusal = `a newer agent of this machine reports as ${name}: end one of the two`;
      this.#reply(message, { accepted: false, refusal });
      return;
    }
    // Late, or twice: whoever sent it has been answered, or has asked again.
    if (known?.hasSeen(report) === true) return;
    if (report.base !== 0 && known?.continues(report) !== true) {
      this.#reply(message, { accepted: false, fullWanted: true });
      return;
    }
    // While a Desired may be about to change, the report is not one of a node that knows it.
    const settled = !sender.isBehind(cluster, name) && sender.revisionOf(name) === report.desiredRevision;
    const isNews = reports.accept(cluster, name, report, settled, nowMs());
    this.#tellStrangers(name, report);
    if (sender.isBehind(cluster, name) && sender.refresh(cluster, reports, name)) reports.outdate(name);
    const { desiredEpoch, desiredRevision, number } = report;
    const missing = sender.missing(cluster, reports, name, {
      leaderEpoch: desiredEpoch,
      revision: desiredRevision,
    });
    const reply: Partial<ReportReply> = {
      accepted: true,
      leaseMs,
      leaderEpoch: cluster.state.epoch,
      fencing: !cluster.state.failoverOff,
      desiredRevision: sender.revisionOf(name) ?? 0,
      acknowledged: number,
      reportEveryMs: reportIntervalMs(reports.nodes.size, leaseMs),
    };
    if (missing.length === 1) this.#reply(message, reply, missing[0]);
    else {
      this.#reply(message, reply);
      sender.send(name, missing);
    }
    onReport(isNews);
  }

  /** `desired` is encoded already. */
  #reply(message: Incoming, reply: Partial<ReportReply>, desired?: Uint8Array): void {
    const parts = desired === undefined ? [] : [{ tag: DESIRED_TAG, bytes: desired }];
    message.respond(encoded(ReportReply, { ...NO_REPLY, ...reply }, parts));
  }

  #decode(message: Incoming): Report | string {
    let report: Report;
    try {
      report = Report.decode(message.data);
    } catch {
      return "this is no report: do the agent and the scheduler have the same version?";
    }
    return reportFault(report) ?? report;
  }

  #admit(info: NodeInfo, incarnation: string): Verdict | Promise<Verdict> {
    const { cluster, logger } = this.#options;
    const node = cluster.state.nodes[info.name];
    const refused = node === undefined ? undefined : keyCheck(node, info);
    if (refused !== undefined) {
      if (this.refusedKeys.get(info.name) !== refused.message)
        logger.warn({ node: info.name }, refused.message);
      this.refusedKeys.set(info.name, refused.message);
      return { kind: "refused", why: refused.message };
    }
    this.refusedKeys.delete(info.name);
    if (node?.incarnation === incarnation) {
      // The node is known and only its description changed: that can follow when the log has time for it.
      this.#refusedNames.delete(info.name);
      // A lease is not granted before the log says that nothing of the node is started elsewhere any more.
      if (node.state === NodeState.LOST) return this.#welcome(info.name);
      if (!this.#isSame(node, info))
        void this.#join(info, incarnation).then((verdict) => {
          if (verdict.kind === "refused") logger.warn({ node: info.name }, verdict.why);
        });
      return { kind: "accepted" };
    }
    const why = node === undefined ? undefined : this.#nameTaken(info.name, node);
    if (why === undefined) return this.#join(info, incarnation);
    if (!this.#refusedNames.has(info.name)) logger.warn({ node: info.name, incarnation }, why);
    this.#refusedNames.add(info.name);
    return { kind: "refused", why };
  }

  /** Compared once: a node's description, as the log has it and as its reports do, hardly ever changes. */
  #isSame({ info: logged }: Node, info: NodeInfo): boolean {
    if (logged !== undefined && this.#same.get(info) === logged) return true;
    if (logged === undefined || !sameInfo(logged, info)) return false;
    this.#same.set(info, logged);
    return true;
  }

  /** Why another machine may not take the node's name yet. */
  #nameTaken(name: string, node: Node): string | undefined {
    const { nowMs, reports } = this.#options;
    const nowIs = nowMs();
    // What runs on the one that had the name before has to stand still, if it ever does.
    const freeFromMs =
      node.fenceMs > 0 ? reports.fencedFromMs(name, node.fenceMs) : reports.leaseUntilMs(name);
    if (nowIs >= freeFromMs) return undefined;
    const lastMs = reports.lastReportMs(name);
    const when = lastMs === undefined ? "before this leader began" : `${formatSeconds(nowIs - lastMs)} ago`;
    return (
      `another agent is node ${name} already (incarnation ${node.incarnation}, it reported ${when}): give this one another name, ` +
      `or stop the other one and wait ${formatSeconds(freeFromMs - nowIs)} for its lease to end`
    );
  }

  /** The log is told first; until then the agent gets no answer. */
  async #welcome(name: string): Promise<Verdict> {
    const { cluster, propose } = this.#options;
    try {
      await propose(command("nodeStateChanged", { node: name, state: NodeState.READY, reason: "" }));
    } catch (error) {
      this.#options.logger.warn({ node: name, err: GodwitError.from(error) }, "a lost node is back");
      return { kind: "silent" };
    }
    return cluster.state.nodes[name]?.state === NodeState.READY ? { kind: "accepted" } : { kind: "silent" };
  }

  /** The log has changed what is to be thought of what the node has of them. */
  suspect(name: string, containers: Iterable<string>): void {
    const { cluster, reports } = this.#options;
    const seen = reports.nodes.get(name);
    for (const id of containers) {
      if (seen?.allocations.has(id) !== true || cluster.state.containers[id]?.allocation?.node === name)
        continue;
      const suspects = this.#suspects.get(name);
      if (suspects === undefined) this.#suspects.set(name, new Set([id]));
      else suspects.add(id);
    }
  }

  /** Copies that are somebody else's by now are removed by the agent as soon as it reads its orders. */
  #tellStrangers(name: string, report: Report): void {
    for (const observed of report.allocations) this.#tellStranger(name, observed);
    const suspects = this.#suspects.get(name);
    if (suspects === undefined) return;
    this.#suspects.delete(name);
    const seen = this.#options.reports.nodes.get(name);
    for (const id of suspects) {
      const observed = seen?.allocations.get(id);
      if (observed !== undefined) this.#tellStranger(name, observed);
    }
  }
  #tellStranger(name: string, { containerId, epoch, state }: ObservedAllocation): void {
    const { cluster, logger } = this.#options;
    const allocation = cluster.state.containers[containerId]?.allocation;
    const isOld = allocation !== undefined && allocation.node !== name && epoch < allocation.epoch;
    const isLeaving = cluster.index.leaving.get(name)?.has(containerId) === true;
    const isStranger = isOld && !isLeaving;
    if (!isStranger && this.#strangers.size === 0) return;
    const key = `${name} ${containerId} ${epoch}`;
    if (!isStranger) this.#strangers.delete(key);
    else if (!this.#strangers.has(key)) {
      this.#strangers.add(key);
      logger.warn(
        {
          node: name,
          container: containerId,
          epoch,
          state,
          owner: allocation.node,
          present: allocation.epoch,
        },
        "a report of an old epoch is refused: the copy is to be removed",
      );
    }
  }

  #join(info: NodeInfo, incarnation: string): Promise<Verdict> {
    const under = this.#joining.get(info.name);
    if (under !== undefined) return under.then(() => ({ kind: "silent" }));
    const joined = this.#proposeJoin(info, incarnation).finally(() => this.#joining.delete(info.name));
    this.#joining.set(info.name, joined);
    return joined;
  }

  async #proposeJoin(info: NodeInfo, incarnation: string): Promise<Verdict> {
    try {
      const outcome = await this.#options.propose(command("nodeJoined", { info, incarnation }));
      return outcome === undefined ? { kind: "accepted" } : { kind: "refused", why: outcome.message };
    } catch (error) {
      this.#options.logger.warn(
        { node: info.name, err: GodwitError.from(error) },
        "a node could not be taken in; it will ask again",
      );
      return { kind: "silent" };
    }
  }
}
