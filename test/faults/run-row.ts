import { setTimeout as delay } from "node:timers/promises";

import { MigrationMode } from "../../proto/gen/godwit/v1/spec.ts";
import { until } from "../e2e/cluster.ts";
import { inflict, PAUSE_MS, processId, signal, whole } from "./faults.ts";
import { heldProcess, orderHold, withdrawHold } from "./hold.ts";
import { endFrozen } from "./host-faults.ts";
import type { Laboratory } from "./laboratory.ts";
import { FROZEN, PHASES, type Point, type When } from "./points.ts";
import { orderSpoil, spoilRestore } from "./spoil.ts";
import { type Row, rowName } from "./rows.ts";
import { moveUnder } from "./whole-moves.ts";

export interface RowResult {
  readonly row: string;
  /** How the move ended and where the container is, or what was wrong. */
  readonly outcome: "moved" | "stayed" | "wrong" | "ended";
  /** Why a move was called off, or what was wrong. */
  readonly words: string;
  readonly tookMs: number;
}

/** Carries one row out on a container that is well, and looks at everything afterwards. Throws nothing. */
export async function runRow(laboratory: Laboratory, row: Row): Promise<RowResult> {
  const startedAt = performance.now();
  let result: Pick<RowResult, "outcome" | "words"> | undefined;
  for (let attempt = 1; result === undefined; attempt += 1) {
    try {
      result = row.kind === "move" ? await moveUnder(laboratory, row.fault) : await faultAt(laboratory, row);
    } catch (error) {
      if (error instanceof EarlyEnd && attempt < ATTEMPTS) continue;
      result = { outcome: "wrong", words: wordsOf(error) };
    }
  }
  return { row: rowName(row), ...result, tookMs: Math.round(performance.now() - startedAt) };
}

/** With what failed while it was cleaned up after a failure. */
function wordsOf(error: unknown): string {
  if (error instanceof SuppressedError) return `${wordsOf(error.suppressed)}; then ${wordsOf(error.error)}`;
  return error instanceof Error ? error.message : String(error);
}

/** In bytes a second: memory follows for some seconds. */
const SLOW = 6e6;
/**
 * On a machine that does much else a host may be missed before anything is done to it, and an agent that the row before
 * has killed may take until now to be back.
 */
const ATTEMPTS = 3;
const MISSED = /^node \w+ was lost \(no report|agent restarted during the move$/;
class EarlyEnd extends Error {}

const MAY_BE_ELSEWHERE: ReadonlySet<string | undefined> = new Set([
  FROZEN.maybe,
  FROZEN.yes,
  PHASES.MIGRATION_PHASE_DUMPED,
]);

async function faultAt(
  laboratory: Laboratory,
  { point, when, fault }: Extract<Row, { kind: "point" }>,
): Promise<Pick<RowResult, "outcome" | "words">> {
  await whole(laboratory);
  await laboratory.refreshShims();
  const { source, target } = await laboratory.ready();
  const check = async (home: string): Promise<void> =>
    await (point.cold === true ? laboratory.checkStartedAgain(home) : laboratory.checkUnharmed(home));
  const here = point.side === "source" ? source : point.side === "target" ? target : "scheduler";
  const folder = laboratory.holdFolder(here);
  const order = (): void => orderHold(folder, { point: point.name, when });
  if (point.onSpoilt === true) orderSpoil(laboratory, target);
  else if (point.onAbort === true)
    orderHold(laboratory.holdFolder(source), { point: PHASES.MIGRATION_PHASE_FROZEN ?? "", when: "after" });
  else order();
  const earlier = await laboratory.newestMigration();
  let held: number | undefined;
  try {
    // A scheduler that stands at the start of a move does not answer the one who asked for it.
    const asked =
      point.postcopy === true
        ? laboratory.startMove(target, MigrationMode.POSTCOPY, SLOW)
        : laboratory.startMove(target, point.cold === true ? MigrationMode.COLD : MigrationMode.AUTO);
    asked.catch(() => undefined);
    try {
      held = await come(laboratory, { point, when, here, source, target, folder, order, asked });
    } catch (error) {
      // Nothing was done to anybody until now.
      if (MISSED.test(await endedBecause(laboratory, asked))) throw new EarlyEnd(String(error));
      throw error;
    }
    const migration = point.name === "entry migrationStarted" ? "" : await asked;
    if (point.side === "scheduler") {
      await inflictOnScheduler(laboratory, fault, held);
    } else {
      const mayBeElsewhere = point.side === "source" && MAY_BE_ELSEWHERE.has(point.name);
      await inflict(fault, { laboratory, source, target, here, held, migration, mayBeElsewhere });
    }
    await whole(laboratory);
    // A scheduler that is killed answers nobody, whatever it has recorded.
    const id = await laboratory.newestMigration();
    if (id === undefined || id === earlier) {
      await check(source);
      return { outcome: "stayed", words: "it was never recorded" };
    }
    const { state, error } = await laboratory.ended(id);
    if (point.onLoss === true) return await lostAndBegunAnew(laboratory, state, error, target);
    await check(state === "finished" ? target : source);
    return { outcome: state === "finished" ? "moved" : "stayed", words: error };
  } finally {
    for (const one of [folder, laboratory.holdFolder(source)]) withdrawHold(one);
    if (held !== undefined) signal(held, "SIGCONT");
  }
}

interface Approach {
  readonly point: Point;
  readonly when: When;
  readonly here: string;
  readonly source: string;
  readonly target: string;
  readonly folder: string;
  readonly order: () => void;
  readonly asked: Promise<string>;
}

/** Brings the move to its point; answers who stands there. */
async function come(
  laboratory: Laboratory,
  { point, when, here, source, target, folder, order, asked }: Approach,
): Promise<number> {
  if (point.onAbort === true) {
    const id = await asked;
    const frozen = await until("the source to be frozen", () => heldProcess(laboratory.holdFolder(source)));
    order();
    laboratory.cluster.api.cancelMigration({ id }, () => undefined);
    signal(frozen, "SIGCONT");
  }
  if (point.onSpoilt === true) await spoilRestore(laboratory, target, order);
  if (point.onLoss === true) {
    const id = await asked;
    await until(
      "memory to be following",
      async () => (await laboratory.migration(id))?.phase === "filling",
      60_000,
    );
    await endFrozen(laboratory.cluster, source, laboratory.containerId);
  }
  const isOnTheWay = point.onAbort !== true && point.onSpoilt !== true && here !== "scheduler";
  const came = await until(
    `${here} to come to ${when} ${point.name}`,
    async () =>
      heldProcess(folder) ??
      (isOnTheWay && (await endedBecause(laboratory, asked)) !== "" ? "no" : undefined),
    60_000,
  );
  if (came === "no") throw new Error(`the move ended before ${here} came to ${when} ${point.name}`);
  return came;
}

/** What was lost is recorded, and its restart policy has begun the container anew where it was. */
async function lostAndBegunAnew(
  laboratory: Laboratory,
  state: string,
  error: string,
  target: string,
): Promise<Pick<RowResult, "outcome" | "words">> {
  if (state !== "lost") throw new Error(`the migration has ${state}: ${error}`);
  await until("it to be started afresh", async () => {
    const row = await laboratory.container();
    return row.state === "running" && row.node === target && row.restarts === 1;
  });
  if (laboratory.cluster.runningOn(laboratory.containerId).join() !== target)
    throw new Error("there is another copy");
  await laboratory.discard();
  return { outcome: "ended", words: `${error}; started afresh` };
}

/** Why a move was called off; empty: it was not, or nobody answers. */
async function endedBecause(laboratory: Laboratory, asked: Promise<string>): Promise<string> {
  const id = await Promise.race([asked.catch(() => ""), delay(1_000, "")]);
  const info = id === "" ? undefined : await laboratory.migration(id).catch(() => undefined);
  return info?.state === "aborted" ? info.error : "";
}

async function inflictOnScheduler(laboratory: Laboratory, fault: string, held: number): Promise<void> {
  const { dev } = laboratory.cluster;
  if (processId(laboratory, "api") !== held) throw new Error("another process stands at the point");
  if (fault === "kill scheduler") {
    await dev.killApi();
    await dev.startApi();
  } else {
    await delay(PAUSE_MS);
    signal(held, "SIGCONT");
  }
}
