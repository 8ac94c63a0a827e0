import { GodwitError } from "../../proto/contract/error.ts";
import { isName } from "../../proto/contract/ids.ts";
import type { Scheduler, SchedulerOptions } from "../public.ts";
import { NatsLink } from "../log/link.ts";
import { thisMachine } from "../log/machine.ts";
import { openLog } from "../log/open.ts";
import { RunningScheduler } from "./scheduler.ts";

const LEASE_MS = 15_000;
/** Shorter than a node's, which must not run out while the leader changes. */
const LEADER_LEASE_MS = 3_000;
const SNAPSHOT_EVERY = 1_000;

/** Resolves when this scheduler has replayed the log, and leads or stands by while another one does. */
export const startScheduler = async (options: SchedulerOptions): Promise<Scheduler> => {
  const {
    connection,
    id,
    logger,
    replicas = 1,
    leaseMs = LEASE_MS,
    leaderLeaseMs = Math.min(LEADER_LEASE_MS, leaseMs),
    addresses = [],
    snapshotEvery = SNAPSHOT_EVERY,
    settings,
  } = options;
  if (!isName(id))
    throw new GodwitError(
      "invalid",
      `${JSON.stringify(id)} is no scheduler id: use lower-case letters, digits and dashes`,
    );
  if (![1, 3, 5].includes(replicas))
    throw new GodwitError("invalid", `${replicas} copies of the log: use 1, 3 or 5`);
  if (leaseMs < 100 || leaderLeaseMs < 100 || snapshotEvery < 1)
    throw new GodwitError("invalid", "a lease takes at least 100 ms and a snapshot at least one entry");
  const machine = thisMachine(options.nowMs);
  const link = new NatsLink(connection, () => machine.nowMs(), logger);
  const writer = `${id}.${machine.randomHex(8)}`;
  const opened = await openLog(connection, { replicas, writer, logger, settings });
  const scheduler = new RunningScheduler({
    link,
    machine,
    id,
    logger,
    leaseMs,
    leaderLeaseMs,
    addresses,
    confirmBy: replicas === 1 ? "read" : "append",
    snapshotEvery,
    opened,
  });
  try {
    await scheduler.begin();
    return scheduler;
  } catch (error) {
    await scheduler[Symbol.asyncDispose]();
    throw error;
  }
};
