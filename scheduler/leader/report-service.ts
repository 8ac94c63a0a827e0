/** Answers the agents' reports: takes nodes in, renews leases, hands out Desired. */
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { REPORT_SUBJECT } from "../../proto/contract/subjects.ts";
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
  readonly #subscription: Disposable;

  constructor(options: ReportServiceOptions) {
    this.#options = options;
    this.#subscription = options.link.subscribe(REPORT_SUBJECT, (message) => {
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
    const verdict = await this.#admit(info, incarnation);
    if (verdict.kind === "silent" || !leading()) return;
    if (verdict.kind === "refused") {
      this.#reply(message, { accepted: false, refusal: verdict.why });
      return;
    }
    const { name } = info;
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
    const { cluster, logger, nowMs, reports } = this.#options;
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
      if (!sameInfo(node.info, info))
        void this.#join(info, incarnation).then((verdict) => {
          if (verdict.kind === "refused") logger.warn({ node: info.name }, verdict.why);
        });
      return { kind: "accepted" };
    }
    const nowIs = nowMs();
    if (node !== undefined && node.state === NodeState.READY && reports.leaseUntilMs(info.name) > nowIs)
      return { kind: "refused", why: this.#nameTaken(info.name, node, nowIs) };
    return this.#join(info, incarnation);
  }

  #nameTaken(name: string, node: Node, nowMs: number): string {
    const { reports } = this.#options;
    const lastMs = reports.lastReportMs(name);
    const when = lastMs === undefined ? "before this leader began" : `${formatSeconds(nowMs - lastMs)} ago`;
    return (
      `another agent is node ${name} already (incarnation ${node.incarnation}, it reported ${when}): give this one another name, ` +
      `or stop the other one and wait ${formatSeconds(Math.max(0, reports.leaseUntilMs(name) - nowMs))} for its lease to end`
    );
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
