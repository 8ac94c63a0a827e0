/** Flags of `run` that say where a container may go. */
import type { Command } from "commander";
import {
  PlacementStrategy,
  PreemptionPolicy,
  type Constraint,
  type ContainerSpec,
  type LabelMatch,
  type PublishedPort,
} from "../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { addConstraint, addMatch, addPort, parsePriority } from "./placement-flags.ts";
import { parsePreemption } from "./shape/words.ts";

export interface PlacementFlags {
  readonly constraint: Constraint[];
  readonly affinity: LabelMatch[];
  readonly antiAffinity: LabelMatch[];
  readonly publish: PublishedPort[];
  readonly spread: boolean;
  readonly pack: boolean;
  readonly project: string;
  readonly priority: number;
  readonly preemption: PreemptionPolicy;
}

const NO_CONSTRAINTS: Constraint[] = [];
const NO_MATCHES: LabelMatch[] = [];
const NO_PORTS: PublishedPort[] = [];

export function addPlacementOptions(run: Command): void {
  run
    .option(
      "--constraint <rule>",
      "NAME=VALUE or NAME!=VALUE of the node's labels or of node.name, arch, kernel and cgroup; a VALUE may end in *; may be given again",
      addConstraint,
      NO_CONSTRAINTS,
    )
    .option(
      "--affinity <label=value>",
      "only on nodes with a container of this label; may be given again",
      addMatch,
      NO_MATCHES,
    )
    .option(
      "--anti-affinity <label=value>",
      "only on nodes without a container of this label, and none comes there later; may be given again",
      addMatch,
      NO_MATCHES,
    )
    .option(
      "--publish <host:container>",
      "this port of the node that it is on leads to this port of it, such as 8080:80 or 5353:53/udp; may be given again",
      addPort,
      NO_PORTS,
    )
    .option("--spread", "on the emptiest node, whatever the cluster's default is", false)
    .option("--pack", "on the fullest node that has room", false)
    .option("--project <name>", "whose quota it counts against (default)", "")
    .option(
      "--priority <number>",
      "higher ones are placed first, and others may have to make room for them (0)",
      parsePriority,
      0,
    )
    .option(
      "--preemption <policy>",
      "what may be done to it for one of a higher priority: move (while it runs), stop (if it cannot be moved), never",
      parsePreemption,
      PreemptionPolicy.MOVE,
    );
}

export function placementOf(flags: PlacementFlags): Partial<ContainerSpec> {
  if (flags.spread && flags.pack)
    throw new GodwitError("invalid", "--spread and --pack are opposites: give one of them");
  return {
    constraints: flags.constraint,
    affinity: flags.affinity,
    antiAffinity: flags.antiAffinity,
    ports: flags.publish,
    strategy: flags.pack
      ? PlacementStrategy.PACK
      : flags.spread
        ? PlacementStrategy.SPREAD
        : PlacementStrategy.UNSPECIFIED,
    project: flags.project,
    priority: flags.priority,
    preemption: flags.preemption,
  };
}
