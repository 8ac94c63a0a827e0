/** Cluster status and events as JSON and as lines. Pure. */
import type { ClusterStatus, Event } from "../../../proto/gen/godwit/v1/api.ts";

export function statusDocument(status: ClusterStatus): Record<string, unknown> {
  return {
    leader: status.leader,
    epoch: status.epoch,
    logSequence: status.logSequence,
    snapshotSequence: status.snapshotSequence,
    stateHash: status.stateHash,
    versions: { godwit: status.version, nats: status.natsVersion },
    nodes: { ready: status.nodesReady, total: status.nodesTotal },
    containers: { running: status.containersRunning, total: status.containersTotal },
    migrationsRunning: status.migrationsRunning,
    schedulers: status.schedulers.map(({ id, role, logSequence, addresses, server, silentMs }) => ({
      id,
      role,
      logSequence,
      addresses,
      server,
      silentMs,
    })),
    servers: status.servers.map(({ name, leads, current, lag }) => ({ name, leads, current, lag })),
    answeredBy: status.answeredBy ?? "",
    failover: !status.failoverOff,
    warnings: status.warnings,
  };
}

export function statusFields(status: ClusterStatus): (readonly [string, string])[] {
  return [
    ["Leader", `${status.leader} (epoch ${status.epoch})`],
    [
      "Log",
      `at ${status.logSequence}, snapshot at ${status.snapshotSequence}${status.stateHash === "" ? "" : `, its state ${status.stateHash.slice(0, 12)}`}`,
    ],
    ...schedulerFields(status),
    ...serverFields(status),
    ["Versions", `godwit ${status.version}, nats-server ${status.natsVersion}`],
    ["Nodes", `${status.nodesReady} of ${status.nodesTotal} ready`],
    ["Containers", `${status.containersRunning} of ${status.containersTotal} running`],
    ["Migrations", `${status.migrationsRunning} running`],
    ["Failover", status.failoverOff ? "off" : "on"],
    ...status.warnings.map((warning) => ["Warning", warning] as const),
  ];
}

/** Nothing where there is one, which is the leader. */
const schedulerFields = ({ schedulers }: ClusterStatus): (readonly [string, string])[] =>
  schedulers.length < 2
    ? []
    : schedulers.map(({ id, role, logSequence, server, silentMs }) => {
        const at = `at ${logSequence}${server === "" ? "" : `, by ${server}`}`;
        return [
          "Scheduler",
          role === "silent" ? `${id} not heard for ${Math.round(silentMs / 1000)} s` : `${id} ${role}, ${at}`,
        ] as const;
      });

const serverFields = ({ servers }: ClusterStatus): (readonly [string, string])[] =>
  servers.length < 2
    ? []
    : servers.map(({ name, leads, current, lag }) => {
        const state = leads
          ? "leads the log"
          : current
            ? "has all of the log"
            : `lacks ${lag || "some"} of the log`;
        return ["Server", `${name} ${state}`] as const;
      });

export const eventRow = (event: Event): Record<string, unknown> => ({
  at: new Date(event.atMs).toISOString(),
  sequence: event.sequence,
  kind: event.kind,
  subject: event.subject,
  message: event.message,
});

/** Fixed widths, so that lines that come one by one stand below each other. */
export const eventLine = (event: Event): string =>
  `${new Date(event.atMs).toISOString()}  ${event.kind.padEnd(22)}  ${event.subject.padEnd(16)}  ${event.message}`.trimEnd();
