/** One run of a scheduler: the real committer, replica, snapshots, planners and leader, on a log in memory. */
import type { Event } from "../../proto/gen/godwit/v1/api.ts";
import { RunningScheduler } from "../../scheduler/leader/scheduler.ts";
import type { EventStore } from "../../scheduler/log/event-log.ts";
import { NatsLink } from "../../scheduler/log/link.ts";
import { thisMachine } from "../../scheduler/log/machine.ts";
import { newestStart, restoreReplica } from "../../scheduler/log/restore.ts";
import { makeSnapshot } from "../../scheduler/log/snapshot-making.ts";
import { SnapshotStore } from "../../scheduler/log/snapshots.ts";
import type { Replica, ReplicaStart } from "../../scheduler/log/replica.ts";
import { context } from "./context.ts";
import { SimLog, type LogServer } from "./log-server.ts";
import { loggerOf } from "./logger.ts";
import { sleep } from "./replaced/timers.ts";
import { Process } from "./world.ts";

const RETRY_MS = 200;
/** It was away for longer than the log is kept, and says so; whoever runs it starts it again. */
export const MISSED_TOO_MUCH = /trimmed beyond entry/;

/** Nobody reads them here. */
class NoEvents implements EventStore {
  add(): void {}
  start(): void {}
  stop(): void {}
  async *events(): AsyncGenerator<Event> {}
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve();
  }
}

export interface SchedulerTerms {
  readonly id: string;
  readonly server: LogServer;
  readonly leaseMs: number;
  readonly leaderLeaseMs: number;
  readonly confirmBy: "read" | "append";
  readonly snapshotEvery: number;
  readonly skewMs: number;
  /** Told each entry that its replica has applied. */
  readonly onApplied: (process: SimScheduler, replica: Replica) => void;
  /** It has ended by itself. */
  readonly onEnd: (scheduler: SimScheduler) => void;
}

export class SimScheduler {
  readonly terms: SchedulerTerms;
  readonly process: Process;
  running: RunningScheduler | undefined;
  replica: Replica | undefined;

  constructor(terms: SchedulerTerms) {
    this.terms = terms;
    this.process = new Process(terms.id, terms.skewMs);
    const { world } = context();
    world.after(0, this.process, () => {
      world.trace(`${terms.id} starts`);
      void this.#start();
    });
  }

  get id(): string {
    return this.terms.id;
  }

  async #start(): Promise<void> {
    const { bus } = context();
    const { confirmBy, id, leaderLeaseMs, leaseMs, server, snapshotEvery } = this.terms;
    const connection = bus.connect(this.process);
    const logger = loggerOf(id, (text, error) => this.#onError(text, error));
    const machine = thisMachine();
    const log = new SimLog(server, connection);
    for (;;) {
      let begun: RunningScheduler | undefined;
      try {
        const snapshots = new SnapshotStore(server.objects(connection), logger);
        const reload = (): Promise<ReplicaStart | undefined> => newestStart(log, snapshots);
        const replica = await restoreReplica(log, snapshots);
        this.replica = this.#watched(replica);
        const running = (begun = new RunningScheduler({
          link: new NatsLink(connection.asNats(), () => machine.nowMs(), logger),
          machine,
          id,
          logger,
          leaseMs,
          leaderLeaseMs,
          addresses: [],
          confirmBy,
          snapshotEvery,
          opened: {
            log,
            snapshots,
            makeSnapshot: (sequence) => makeSnapshot(log, snapshots, sequence),
            events: new NoEvents(),
            replica,
            reload,
          },
        }));
        this.running = running;
        await running.begin();
        return;
      } catch (error) {
        logger.warn({ err: error }, "the scheduler cannot start yet");
        // As whoever starts one does, and then starts another.
        this.running = undefined;
        await begun?.[Symbol.asyncDispose]();
        await sleep(RETRY_MS);
      }
    }
  }

  #watched(replica: Replica): Replica {
    const apply = replica.apply.bind(replica);
    replica.apply = (stored, seen) => {
      const applied = apply(stored, seen);
      this.terms.onApplied(this, replica);
      return applied;
    };
    return replica;
  }

  #onError(text: string, error: unknown): void {
    const { world } = context();
    const why = error instanceof Error ? error.message : text;
    if (MISSED_TOO_MUCH.test(why)) {
      world.after(0, undefined, () => this.terms.onEnd(this));
      return;
    }
    world.violated(`${this.id}: ${text}${error instanceof Error ? `\n${error.stack ?? ""}` : ""}`);
  }

  kill(): void {
    const { bus, world } = context();
    world.trace(`${this.id} dies`);
    world.crash(this.process);
    const connection = bus.of(this.process);
    if (connection !== undefined) this.terms.server.forget(connection);
    bus.forget(this.process);
    this.running = undefined;
  }
}
