/** One seed from its first event to its last. */
import { SimCluster } from "./cluster.ts";
import { scheduleFaults } from "./faults.ts";
import { Operator } from "./operator.ts";
import { unsettled } from "./settling.ts";
import { install, World } from "./world.ts";

/** Longer than every limit after which somebody gives something up. */
const SETTLES_WITHIN_MS = 600_000;
/** Not in step with what is done once a second: then each look would come just after the same entry. */
const LOOK_MS = 1_013;

export interface Outcome {
  readonly seed: number;
  /** Undefined: no rule was broken. */
  readonly violation: string | undefined;
  /** Of every event's line: two runs of a seed have the same. */
  readonly traceHash: string;
  readonly events: number;
  readonly virtualMs: number;
  readonly entries: number;
  readonly counts: Readonly<Record<string, number>>;
  /** The last lines before the violation. */
  readonly lines: readonly string[];
}

export const simulate = async (
  seed: number,
  options: { readonly keepLines?: number } = {},
): Promise<Outcome> => {
  const world = new World(seed, { keepLines: options.keepLines ?? 0 });
  install(world);
  const thrown = (error: unknown): void => world.thrown(error);
  process.on("unhandledRejection", thrown);
  const cluster = new SimCluster(world);
  const operator = new Operator(cluster);
  const troubledMs = world.random.fork("length").pick([20_000, 40_000, 80_000]);
  cluster.start();
  operator.begin(troubledMs);
  scheduleFaults(cluster, troubledMs);
  await world.runUntil(troubledMs);
  cluster.heal();
  let open: string | undefined = "it has not begun";
  const untilMs = world.nowMs + SETTLES_WITHIN_MS;
  while (open !== undefined && world.violation === undefined && world.nowMs < untilMs) {
    await world.runUntil(world.nowMs + LOOK_MS);
    open = unsettled(cluster);
  }
  if (open !== undefined) world.violated(`not settled after ${SETTLES_WITHIN_MS / 1_000} s: ${open}`);
  for (const { id, replica } of cluster.schedulers.values())
    if (open === undefined && replica !== undefined) cluster.referee.compare(id, replica);
  const broken = operator.broken();
  if (broken !== undefined) world.violated(broken);
  process.off("unhandledRejection", thrown);
  return {
    seed,
    violation: world.violation?.message,
    traceHash: world.traceHash(),
    events: world.events,
    virtualMs: world.nowMs,
    entries: cluster.server.last,
    counts: Object.fromEntries([...cluster.referee.counts, ...operator.counts, ...cluster.conditions.fates]),
    lines: world.lines,
  };
};
