/** Bringing back what was evacuated from a node. Pure. */
import type { DrainItem } from "../../proto/gen/godwit/v1/api.ts";
import type { Command, Container, LeftAlone, NodeReturn } from "../../proto/gen/godwit/v1/log.ts";
import { NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { someOf } from "../model/quantity.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { evacuatedFrom } from "../state/evacuation.ts";
import { command } from "./command.ts";
import { disruptionCheck, PlannedDisruptions } from "./disruption.ts";
import { attemptsOf, drainItem, movedItem, type DrainRound } from "./drain.ts";
import { idleness, MOVE_ATTEMPTS } from "./drain-course.ts";
import { stayCheck, targetRefusals, usualMode, type Seen } from "./movable.ts";

export interface ReturnView {
  readonly moved: DrainItem[];
  readonly failed: DrainItem[];
  readonly moving: DrainItem[];
  readonly arrivals: { readonly container: Container; readonly mode: MigrationMode }[];
  readonly waiting: DrainItem[];
  /** Stays where it is, and does not keep the return from ending. */
  readonly staying: DrainItem[];
}

export interface ReturnTerms {
  /** Absent: as if one began now. */
  readonly back?: NodeReturn | undefined;
  readonly disruptions?: PlannedDisruptions | undefined;
}

const aloneItem = ({ containerName, reason }: LeftAlone): DrainItem =>
  drainItem(containerName, { reason: `${reason}: left alone` });

export const viewReturn = (
  cluster: Cluster,
  seen: Seen,
  node: string,
  { back, disruptions = new PlannedDisruptions(cluster) }: ReturnTerms,
): ReturnView => {
  const { state } = cluster;
  const view: ReturnView = { moved: [], failed: [], moving: [], arrivals: [], waiting: [], staying: [] };
  const id = back?.id;
  const { moved, aborted } = attemptsOf(cluster, ({ returnId }) => id !== undefined && returnId === id);
  view.moved.push(...moved.map(movedItem));
  // Those that have been switched already too: until they run, nothing is over.
  for (const migrationId of id === undefined ? [] : cluster.index.moving) {
    const migration = state.migrations[migrationId];
    if (migration?.returnId === id)
      view.moving.push(
        drainItem(migration?.containerName ?? "", {
          ...{ to: node, reason: "is moving", migrationId, mode: migration?.mode },
        }),
      );
  }
  const { waiting, leftAlone } = evacuatedFrom(cluster, node);
  view.staying.push(...[...leftAlone, ...(back?.outcome ? back.leftAlone : [])].map(aloneItem));
  for (const container of waiting) {
    const name = nameOf(container);
    const put = (list: DrainItem[], reason: string, rest: Partial<DrainItem> = {}): void =>
      void list.push(drainItem(name, { to: node, reason, ...rest }));
    const migration = state.migrations[container.migrationId];
    if (migration !== undefined) {
      if (id === undefined || migration.returnId !== id) put(view.waiting, `is moving to ${migration.to}`);
      continue;
    }
    const idle = idleness(container);
    if (idle !== undefined) {
      const list = { wait: view.waiting, stay: view.staying, failed: view.failed }[idle.kind];
      put(list, idle.kind === "stay" ? idle.why.replace("on its node", "where it is") : idle.why, { to: "" });
      continue;
    }
    if (state.nodes[container.allocation?.node ?? ""]?.state === NodeState.LOST) {
      put(view.waiting, "its node is lost");
      continue;
    }
    const attempts = aborted.get(container.id) ?? [];
    const last = attempts.at(-1);
    if (last !== undefined && (last.cancelRequested || attempts.length >= MOVE_ATTEMPTS)) {
      const why = last.cancelRequested
        ? "its move was cancelled"
        : `failed to move ${attempts.length} times, last: ${last.error}`;
      put(view.failed, why, { migrationId: last.id });
      continue;
    }
    const mode = usualMode(container);
    const refused =
      stayCheck(cluster, seen, container, false, mode) ??
      // As if it were uncordoned already.
      targetRefusals(cluster, seen, container, node, mode).find(
        () => back !== undefined || state.nodes[node]?.schedulable === true,
      );
    if (refused !== undefined) {
      put(view.failed, refused.message);
      continue;
    }
    if (mode === MigrationMode.COLD) {
      const disrupts = disruptionCheck(cluster, disruptions, container);
      if (disrupts !== undefined) {
        put(view.waiting, disrupts.message);
        continue;
      }
      disruptions.add(container);
    }
    view.arrivals.push({ container, mode: mode === MigrationMode.COLD ? mode : MigrationMode.AUTO });
  }
  return view;
};

const ending = (view: ReturnView): string | undefined => {
  if (view.moving.length + view.arrivals.length + view.waiting.length > 0) return undefined;
  if (view.failed.length === 0) return "returned";
  return `failed: cannot be brought back: ${someOf(view.failed.map((one) => `${one.container} (${one.reason})`))}`;
};

/** The next step of every running return. */
export const planReturns = (cluster: Cluster, seen: Seen, round: DrainRound): Command[] =>
  [...cluster.index.returning].flatMap((node) => {
    const back = cluster.state.nodes[node]?.return;
    if (back === undefined) return [];
    const view = viewReturn(cluster, seen, node, { back, disruptions: round.disruptions });
    const outcome = ending(view);
    if (outcome !== undefined) return command("returnEnded", { node, returnId: back.id, outcome });
    const commands: Command[] = [];
    let free = back.parallel - view.moving.length;
    for (const { container, mode } of view.arrivals) {
      const { node: from = "", epoch = 0 } = container.allocation ?? {};
      if (free <= 0) break;
      if (!round.limits.admits(from, node, back.perLink)) continue;
      round.limits.add(from, node);
      free -= 1;
      commands.push(
        command("migrationStarted", {
          id: round.newId(),
          containerId: container.id,
          from,
          to: node,
          epoch: epoch + 1,
          mode,
          blackoutBudgetMs: container.spec?.blackoutBudgetMs ?? 0,
          drainId: "",
          returnId: back.id,
          bandwidthBytesPerSecond: 0,
          reason: "return",
        }),
      );
    }
    return commands;
  });
