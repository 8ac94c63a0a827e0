/** NATS subjects and JetStream names: the one place that spells them. */

export const LOG_STREAM = "GODWIT_LOG";
export const LOG_SUBJECT = "godwit.log";
export const EVENT_STREAM = "GODWIT_EVENTS";
export const EVENT_SUBJECT = "godwit.events";
/** JetStream object stores. */
export const SNAPSHOT_STORE = "godwit-snapshots";
export const IMAGE_STORE = "godwit-images";

/** Where a node, and nobody else, may report: NATS knows an agent by its password, and its leader by this name. */
export const reportSubject = (node: string): string => `godwit.report.${node}`;
export const nodeOfReport = (subject: string): string => subject.slice(reportSubject("").length);
export const ALL_REPORTS_SUBJECT = "godwit.report.*";
export const desiredSubject = (node: string): string => `godwit.node.${node}.desired`;
export const execSubject = (node: string): string => `godwit.node.${node}.exec`;
export const logsSubject = (node: string): string => `godwit.node.${node}.logs`;
/** Input frames of one exec session. */
export const execInputSubject = (node: string, session: string): string =>
  `godwit.node.${node}.exec.${session}`;
export const logsStopSubject = (node: string, session: string): string =>
  `godwit.node.${node}.logs.${session}`;
/** Output of exec and log sessions goes below this; the API subscribes with an id of its own. */
export const sessionOutputSubject = (session: string): string => `godwit.session.${session}`;
/** Forecasts of moves away from the node. */
export const forecastSubject = (node: string): string => `godwit.node.${node}.forecast`;
/** How fast the link to the node is; below "godwit.migration.", where agents may write to each other. */
export const probeSubject = (node: string): string => `godwit.migration.probe.${node}`;
export const migrationDataSubject = (migration: string): string => `godwit.migration.${migration}.data`;
export const migrationCreditSubject = (migration: string): string => `godwit.migration.${migration}.credit`;
/** The second stream of a migration, from the target to the source. */
export const heldPagesStream = (migration: string): string => `${migration}-held`;
/** The streams of a post-copy; see stream.proto. */
export const followingPagesStream = (migration: string, session: number): string =>
  `${migration}-pages-${session}`;
export const wantedPagesStream = (migration: string, session: number): string =>
  `${migration}-wanted-${session}`;
/** To all agents: a container is gone for good, and with it what hosts hold of its memory. */
export const CONTAINER_GONE_SUBJECT = "godwit.migration.held.gone";
/** Schedulers tell each other that they live. */
export const SCHEDULER_BEAT_SUBJECT = "godwit.scheduler.beat";
/** Requests that only the leader answers. */
export const SCHEDULER_LEADER_SUBJECT = "godwit.scheduler.leader";
