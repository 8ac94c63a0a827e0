/**
 * `second-program.ts URL ID SEQUENCE`: takes in a log up to an entry, waits until it leads, and measures what a snapshot
 * of all of it does to appends and to its event loop.
 */
import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import { setTimeout as delay } from "node:timers/promises";

import { connect } from "@nats-io/transport-node";

import { connectionOptions, startScheduler } from "../../../scheduler/mod.ts";
import { sampleImage, silent } from "../../../scheduler/testing/sample.ts";
import { quantile } from "../statistics.ts";
import type { Stall } from "./figures.ts";
import type { Message } from "./second-scheduler.ts";

/** As in main.ts. */
const LEASE_MS = 60_000;
/** What a new leader has to do at first is over by then. */
const SETTLE_MS = 5_000;
const PROBE_EVERY_MS = 20;
/** Entries of the probes after which a snapshot is due. */
const PROBES_WITHOUT = 400;

const [url = "", id = "s2", sequence = "0"] = process.argv.slice(2);
const say = (message: Message): void => void process.send?.(message);

const settings = { servers: url, ...connectionOptions };
const connection = await connect(settings);
const scheduler = await startScheduler({
  connection,
  settings,
  id,
  logger: silent,
  leaseMs: LEASE_MS,
  // Counted from the beginning of the log, where there is no snapshot yet.
  snapshotEvery: Number(sequence) + PROBES_WITHOUT,
});
while (scheduler.status().logSequence < Number(sequence)) await delay(10);
say({ kind: "loaded", loadMs: performance.now() });
while (!scheduler.leads) await delay(1);
say({ kind: "leading" });
await delay(SETTLE_MS);

/** Appends again and again, as long as it is to. */
async function probe(goesOn: () => boolean): Promise<Stall> {
  const loop = monitorEventLoopDelay({ resolution: 1 });
  loop.enable();
  const appends: number[] = [];
  while (goesOn()) {
    const askedAt = performance.now();
    await scheduler.addImage(sampleImage("another", "b"));
    appends.push(performance.now() - askedAt);
    await delay(PROBE_EVERY_MS);
  }
  loop.disable();
  return {
    appendMedianMs: quantile(appends, 0.5),
    appendMaxMs: Math.max(...appends),
    loopMaxMs: loop.max / 1e6,
  };
}

const dueAt = Number(sequence) + PROBES_WITHOUT - 1;
const without = await probe(() => scheduler.status().logSequence < dueAt);
const beganAt = performance.now();
const during = await probe(() => scheduler.status().snapshotSequence === 0);
say({ kind: "measured", snapshotMs: performance.now() - beganAt, during, without });
