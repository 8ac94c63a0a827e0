/** The fault matrix: at which point of a move what goes wrong, and how the move may end then. Pure. */
import { type Point, POINTS, type When } from "./points.ts";
import { DAMAGES } from "./stream-damage.ts";

/** Each is done while the process of the point's side stands still there. */
export const POINT_FAULTS = [
  "kill agent",
  "pause agent",
  "kill peer's agent",
  "pause peer's agent",
  "kill criu",
  "pause criu",
  "kill scheduler",
  "pause scheduler",
  "kill nats",
  "pause nats",
  "cut source|target",
  "cut source|scheduler",
  "cut target|scheduler",
  "cancel",
] as const;
export type PointFault = (typeof POINT_FAULTS)[number];

export const WHOLE_MOVE_FAULTS = [
  ...DAMAGES.flatMap((damage) => [`${damage} chunks`, `${damage} credits`] as const),
  "kill runc",
  "pause runc",
  "kill criu 5 ms into the dump",
  "kill criu 30 ms into the dump",
  "target's disk is full",
  "target is out of memory",
  "kill filler after the switch",
  "target's CRIU can never restore",
  "container exits",
  "container forks",
  "container execs",
  "container runs out of its memory",
  "container writes faster than the link",
  "source is gone for good before the switch",
  "source is gone for good after the switch",
  "target is gone for good before the switch",
  "target is gone for good after the switch",
] as const;
export type WholeMoveFault = (typeof WHOLE_MOVE_FAULTS)[number];

export type Row =
  | { readonly kind: "point"; readonly point: Point; readonly when: When; readonly fault: PointFault }
  | { readonly kind: "move"; readonly fault: WholeMoveFault };

/** Faults that say nothing at this point. */
function applies(point: Point, when: When, fault: PointFault): boolean {
  if (point.side === "scheduler") return fault === "kill scheduler" || fault === "pause scheduler";
  if (fault === "kill criu" || fault === "pause criu") return point.criu === true;
  // What others do to a move is seen on the live ones; here it is whether a stopped container is started, once.
  if (point.cold === true)
    return (
      /^kill (agent|peer's agent|scheduler)$|^cut source\|(target|scheduler)$/.test(fault) ||
      (fault === "cancel" && point.switched === undefined)
    );
  // Here it is whether memory that follows is ever lost, or found in two places.
  if (point.postcopy === true)
    return (
      /^kill (agent|peer's agent|nats)$|^cut (source|target)\|/.test(fault) ||
      (fault === "cancel" && point.switched === undefined)
    );
  // A migration that is called off already cannot be cancelled, and one that is switched says so.
  if (fault === "cancel") return point.onAbort === undefined && point.switched === undefined;
  // These two are for a source that thaws; what the others do then is what they do anyway.
  if (point.onSpoilt === true) return /^(kill|pause) agent$|^(kill|cut) .*(scheduler|nats|peer)/.test(fault);
  if (point.onAbort === true) return fault === "kill agent" || fault === "pause agent";
  // A pause of others is seen best where everything is in flight.
  if (fault.startsWith("pause") && fault !== "pause agent") return when === "after";
  return true;
}

export const ROWS: readonly Row[] = [
  ...POINTS.flatMap((point) =>
    (["before", "after"] as const).flatMap((when) =>
      POINT_FAULTS.filter((fault) => applies(point, when, fault)).map((fault): Row => ({
        kind: "point",
        point,
        when,
        fault,
      })),
    ),
  ),
  ...WHOLE_MOVE_FAULTS.map((fault): Row => ({ kind: "move", fault })),
];

export const rowName = (row: Row): string =>
  row.kind === "move" ? row.fault : `${row.point.side}, ${row.when} ${pointName(row.point)}: ${row.fault}`;

/** A post-copy passes through points that others pass through, too. */
export const pointName = ({ name, postcopy }: Point): string =>
  postcopy === true ? `${name} (post-copy)` : name;
