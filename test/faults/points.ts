/**
 * The moments of a move at which a fault can be made to happen: each is a change of what one side has told (its
 * phase), has written down (its record's status), has been asked by CRIU, or has been given by the log. Pure.
 */
import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { type Command, MigrationState } from "../../proto/gen/godwit/v1/log.ts";
import type { RecordStatus } from "../../agent/model/record.ts";

export type Side = "source" | "target" | "scheduler";
export type When = "before" | "after";

export interface Point {
  readonly side: Side;
  /** As fixture/agent.ts and fixture/api.ts name it. */
  readonly name: string;
  /** CRIU lives at this moment on this side. */
  readonly criu?: true;
  /** Ownership has moved, or may have by the time that the fault is felt. */
  readonly switched?: true;
  /** A move that ends well does not come here: it has to be called off first. */
  readonly onAbort?: true;
  /** Nor here: the target's image has to be spoilt after the switch. */
  readonly onSpoilt?: true;
  /** Only a cold move comes here. */
  readonly cold?: true;
  /** Only a post-copy comes here. */
  readonly postcopy?: true;
  /** And only one whose source dies while memory follows. */
  readonly onLoss?: true;
}

export const POINTS: readonly Point[] = [
  { side: "target", name: "phase PREPARING" },
  { side: "target", name: "status restoring:receiving" },
  { side: "target", name: "phase READY", criu: true },
  { side: "source", name: "phase COPYING" },
  { side: "target", name: "phase RECEIVING", criu: true },
  { side: "source", name: "status frozen:no", criu: true },
  { side: "source", name: "phase FROZEN", criu: true },
  { side: "source", name: "criu network-lock", criu: true },
  { side: "source", name: "status frozen:maybe", criu: true },
  { side: "source", name: "status frozen:yes", criu: true },
  { side: "source", name: "phase DUMPED" },
  { side: "target", name: "status restoring:received", criu: true },
  { side: "target", name: "phase RESTORED", criu: true },
  { side: "target", name: "status restoring:ran", criu: true, switched: true },
  { side: "target", name: "criu network-unlock", criu: true, switched: true },
  { side: "target", name: "criu pre-resume", criu: true, switched: true },
  { side: "target", name: "status running", switched: true },
  { side: "target", name: "phase RUNNING", switched: true },
  { side: "source", name: "status none", switched: true },
  { side: "source", name: "status running", onAbort: true },
  { side: "target", name: "status restoring:given-up", switched: true, onSpoilt: true },
  { side: "target", name: "phase GIVEN_UP", switched: true, onSpoilt: true },
  { side: "source", name: "status halted:no", cold: true },
  { side: "source", name: "status halted:maybe", cold: true },
  { side: "source", name: "status halted:yes", cold: true },
  { side: "target", name: "status starting", cold: true, switched: true },
  { side: "source", name: "phase DUMPED", postcopy: true },
  { side: "target", name: "status restoring:received", postcopy: true },
  { side: "target", name: "status restoring:ran", postcopy: true, switched: true },
  { side: "target", name: "criu pre-resume", postcopy: true, switched: true },
  { side: "target", name: "phase FILLING", postcopy: true, switched: true },
  { side: "target", name: "phase RUNNING", postcopy: true, switched: true },
  { side: "source", name: "status none", postcopy: true, switched: true },
  { side: "scheduler", name: "entry migrationLost", postcopy: true, switched: true, onLoss: true },
  { side: "scheduler", name: "entry migrationReturned", switched: true, onSpoilt: true },
  { side: "scheduler", name: "entry migrationStarted" },
  { side: "scheduler", name: "entry migrationSwitched" },
  { side: "scheduler", name: "entry migrationFinished", switched: true },
  { side: "scheduler", name: "entry migrationAborted", onAbort: true },
];

/** Where each state of the protocol is tested; a new one does not compile before it is named here. */
export const PHASES: Record<MigrationPhase, string | undefined> = {
  [MigrationPhase.UNSPECIFIED]: undefined,
  [MigrationPhase.PREPARING]: "phase PREPARING",
  [MigrationPhase.READY]: "phase READY",
  [MigrationPhase.COPYING]: "phase COPYING",
  [MigrationPhase.FROZEN]: "phase FROZEN",
  [MigrationPhase.DUMPED]: "phase DUMPED",
  [MigrationPhase.RECEIVING]: "phase RECEIVING",
  [MigrationPhase.RESTORED]: "phase RESTORED",
  [MigrationPhase.RUNNING]: "phase RUNNING",
  // Reported when the source has nothing left, which is what its record says first.
  [MigrationPhase.RELEASED]: "status none",
  // Reported by a side that has failed: what it does then is to thaw, or to be told so by the log.
  [MigrationPhase.FAILED]: "entry migrationAborted",
  [MigrationPhase.ABORTED]: "entry migrationAborted",
  [MigrationPhase.GIVEN_UP]: "phase GIVEN_UP",
  [MigrationPhase.FILLING]: "phase FILLING",
};

type FrozenSent = Extract<RecordStatus, { kind: "frozen" }>["sent"];
type HaltedSent = Extract<RecordStatus, { kind: "halted" }>["sent"];
type RestoringStage = Extract<RecordStatus, { kind: "restoring" }>["stage"];

/** undefined: no move passes through it. */
export const STATUSES: Record<
  Exclude<RecordStatus["kind"], "frozen" | "halted" | "restoring">,
  string | undefined
> = {
  stopped: undefined,
  starting: "status starting",
  running: "status running",
};
export const FROZEN: Record<FrozenSent, string> = {
  no: "status frozen:no",
  maybe: "status frozen:maybe",
  yes: "status frozen:yes",
};
export const HALTED: Record<HaltedSent, string> = {
  no: "status halted:no",
  maybe: "status halted:maybe",
  yes: "status halted:yes",
};
export const RESTORING: Record<RestoringStage, string> = {
  receiving: "status restoring:receiving",
  received: "status restoring:received",
  ran: "status restoring:ran",
  "given-up": "status restoring:given-up",
};

export const STATES: Record<MigrationState, string | undefined> = {
  [MigrationState.UNSPECIFIED]: undefined,
  [MigrationState.RUNNING]: "entry migrationStarted",
  [MigrationState.SWITCHED]: "entry migrationSwitched",
  [MigrationState.FINISHED]: "entry migrationFinished",
  [MigrationState.ABORTED]: "entry migrationAborted",
  [MigrationState.LOST]: "entry migrationLost",
};

type EntryName = NonNullable<Command["command"]>["$case"];
export const ENTRIES: Record<Extract<EntryName, `migration${string}`>, string> = {
  migrationStarted: "entry migrationStarted",
  migrationSwitched: "entry migrationSwitched",
  migrationAborted: "entry migrationAborted",
  migrationReturned: "entry migrationReturned",
  migrationFinished: "entry migrationFinished",
  migrationLost: "entry migrationLost",
  // Only says that the abort is to come.
  migrationCancelRequested: "entry migrationAborted",
};
