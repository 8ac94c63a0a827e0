/** Answers the agents' reports: takes nodes in, renews leases, hands out Desired. */
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { ALL_REPORTS_SUBJECT, reportSubject } from "../../proto/contract/subjects.ts";
import { Report, ReportReply } from "../../proto/gen/godwit/v1/agent.ts";
import { NodeInfo, NodeState, type Command, type Node } from "../../proto/gen/godwit/v1/log.ts";
import type { Incoming, Link } from "../log/link.ts";
import { formatSeconds } from "../model/quantity.ts";
import { reportFault } from "../model/report-check.ts";
import { command } from "../plan/command.ts";
import type { Cluster } from "../state/cluster.ts";
import { keyCheck } from "../state/node-key.ts";
import type { Outcome } from "../state/rejection.ts";
import type { DesiredSender } from "./desired-sender.ts";
import type { Reports } from "./reports.ts";

export interface ReportServiceOptions {
  readonly link: Pick<Link, "subscribe">;
  readonly cluster: Cluster;
  readonly reports: Reports;
  readonly sender: DesiredSender;
  readonly propose: (command: Command) => Promise<Outcome>;
  readonly leading: () => boolean;
  readonly leaseMs: number;
  readonly nowMs: () => number;
  readonly logger: Logger;
  /** After every accepted report. */
  readonly onReport: () => void;
}

type Verdict =
  | { readonly kind: "accepted" }
  | { readonly kind: "refused"; readonly why: string }
  | { readonly kind: "silent" };

const sameInfo = (a: NodeInfo | undefined, b: NodeInfo): boolean =>
  a !== undefined && Buffer.compare(NodeInfo.encode(a).finish(), NodeInfo.encode(b).finish()) === 0;

export class ReportService implements Disposable {
  readonly #options: ReportServiceOptions;
  /** Joins under way by node, so that a slow log does not pile them up. */
  readonly #joining = new Map<string, Promise<Verdict>>();
  /** By node, what is the matter with an agent that claims to be it with another key; for operators to see. */
  readonly refusedKeys = new Map<string, string>();
  /** Names that a second machine claims. */
  readonly #refusedNames = new Set<string>();
  /** Copies of an old epoch that have been told of. */
  readonly #strangers = new Set<string>();
  readonly #subscription: Disposable;

  constructor(options: ReportServiceOptions) {
    this.#options = options;
    this.#subscription = options.link.subscribe(ALL_REPORTS_SUBJECT, (message) => {
      void this.#answer(message).catch((failure: unknown) => {
        options.logger.error({ err: failure }, "a report could not be answered");
      });
    });
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }

  /** Does not answer while it does not know: the agent asks again, maybe another leader. */
  async #answer(message: Incoming): Promise<void> {
    const { cluster, leading, leaseMs, nowMs, onReport, reports, sender } = this.#options;
    if (!leading()) return;
    const report = this.#decode(message);
    if (typeof report === "string") {
      this.#reply(message, { accepted: false, refusal: report });
      return;
    }
    const { info, incarnation } = report;
    if (info === undefined) return;
    if (message.subject !== reportSubject(info.name)) {
      const refusal = `a report of ${info.name} came as ${message.subject}, which is another node's`;
      this.#options.logger.warn({ node: info.name, subject: message.subject }, refusal);
      this.#reply(message, { accepted: false, refusal });
      return;
    }
    const verdict = await this.#admit(info, incarnation);
    if (verdict.kind === "silent" || !leading()) return;
    if (verdict.kind === "refused") {
      this.#reply(message, { accepted: false, refusal: verdict.why });
      return;
    }
    const { name } = info;
    this.#tellStrangers(name, report);
    // While a Desired may be about to change, the report is not one of a node that knows it.
    const settled = !cluster.touched.has(name) && sender.revisionOf(name) === report.desiredRevision;
    reports.accept(cluster, name, report, settled, nowMs());
    if (cluster.touched.has(name) || sender.revisionOf(name) === undefined)
      if (sender.refresh(cluster, reports, name)) reports.outdate(name);
    const desired = sender.oversized.has(name) ? undefined : sender.desiredOf(name);
    this.#reply(message, {
      accepted: true,
      leaseMs,
      leaderEpoch: cluster.state.epoch,
      fencing: !cluster.state.failoverOff,
      desiredRevision: sender.revisionOf(name) ?? 0,
      ...(desired === undefined || desired.revision === report.desiredRevision ? {} : { desired }),
    });
    onReport();
  }

  #reply(message: Incoming, reply: Parameters<typeof ReportReply.fromPartial>[0]): void {
    message.respond(ReportReply.encode(ReportReply.fromPartial(reply)).finish());
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

  async #admit(info: NodeInfo, incarnation: string): Promise<Verdict> {
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
      if (!sameInfo(node.info, info))
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

  /** Copies that are somebody else's by now are removed by the agent as soon as it reads its orders. */
  #tellStrangers(name: string, report: Report): void {
    const { cluster, logger } = this.#options;
    for (const { containerId, epoch, state } of report.allocations) {
      const allocation = cluster.state.containers[containerId]?.allocation;
      const isOld = allocation !== undefined && allocation.node !== name && epoch < allocation.epoch;
      const isLeaving = cluster.index.leaving.get(name)?.has(containerId) === true;
      const isStranger = isOld && !isLeaving;
      // Every report of every container comes by here.
      if (!isStranger && this.#strangers.size === 0) continue;
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
