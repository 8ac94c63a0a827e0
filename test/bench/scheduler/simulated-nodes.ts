/**
 * Many nodes in one process, for the scheduler's benchmark: each reports as an agent does and says of whatever it is
 * told to run that it runs. `simulated-nodes.ts URL COUNT REPORT_EVERY_MS`; ends when its standard input does.
 */
import { connect, type NatsConnection } from "@nats-io/transport-node";

import { Orders } from "../../../proto/contract/orders.ts";
import { ReportBook, type Sight } from "../../../proto/contract/report-book.ts";
import { desiredSubject, reportSubject } from "../../../proto/contract/subjects.ts";
import {
  Desired,
  Load,
  Report,
  ReportReply,
  type DesiredAllocation,
} from "../../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, DesiredState, type NodeInfo } from "../../../proto/gen/godwit/v1/log.ts";
import { connectionOptions } from "../../../scheduler/mod.ts";
import { sampleNode, sampleSight } from "../../../scheduler/testing/sample.ts";

const GIB = 1024 ** 3;
/** Of one node: large enough for all that the benchmark asks for. */
const CAPACITY = { cpuMillis: 1_000_000, memoryBytes: 1024 * GIB };
const REPLY_TIMEOUT_MS = 20_000;

const EMPTY = Report.fromPartial({});

/** It runs, and uses a little all the time. */
const sightOf = ({ containerId, desired, epoch, restartGeneration }: DesiredAllocation): Sight => {
  const state = desired === DesiredState.STOPPED ? AllocationState.EXITED : AllocationState.RUNNING;
  return sampleSight({ containerId, epoch, state, restartGeneration }, () => ({
    memoryBytes: 4_194_304,
    cpuUsageUsec: Math.round(performance.now()),
    pids: 3,
    healthOutput: "",
  }));
};

class SimulatedNode {
  readonly #connection: NatsConnection;
  readonly #name: string;
  readonly #info: NodeInfo;
  readonly #orders = new Orders();
  readonly #book = new ReportBook(1);
  readonly #sights = new Map<string, Sight>();
  #reporting = false;
  #again = false;

  constructor(connection: NatsConnection, name: string) {
    this.#connection = connection;
    this.#name = name;
    this.#info = sampleNode(name, CAPACITY);
    connection.subscribe(desiredSubject(name), {
      callback: (error, message) => {
        if (error === null) this.#take(Desired.decode(message.data));
      },
    });
  }

  #take(desired: Desired): void {
    const taken = this.#orders.take(desired);
    if (taken.kind === "taken") {
      for (const id of taken.gone) this.#sights.delete(id);
      for (const id of taken.changed) {
        const order = this.#orders.allocations.get(id);
        if (order !== undefined) this.#sights.set(id, sightOf(order));
      }
    }
    if (taken.kind === "taken" || taken.kind === "gap") this.report();
  }

  report(): void {
    if (this.#reporting) {
      this.#again = true;
      return;
    }
    this.#again = false;
    this.#reporting = true;
    void this.#send().finally(() => {
      this.#reporting = false;
      if (this.#again) this.report();
    });
  }

  async #send(): Promise<void> {
    const { leaderEpoch, revision } = this.#orders;
    const report: Report = {
      ...EMPTY,
      ...this.#book.next({
        info: this.#info,
        images: [],
        sights: [...this.#sights.values()],
        checkpoints: [],
        nowMs: performance.now(),
      }),
      incarnation: `i-${this.#name}`,
      desiredRevision: revision,
      desiredEpoch: leaderEpoch,
      load: Load.fromPartial({ cpuMillisUsed: 100, memoryBytesUsed: GIB, load1: 0.1 }),
    };
    try {
      const message = await this.#connection.request(
        reportSubject(this.#name),
        Report.encode(report).finish(),
        {
          timeout: REPLY_TIMEOUT_MS,
        },
      );
      const reply = ReportReply.decode(message.data);
      const { acknowledged, desired, fullWanted, reportEveryMs } = reply;
      if (fullWanted) {
        this.#book.startAnew();
        this.#again = true;
      }
      this.#book.acknowledge(acknowledged);
      everyMs = Math.max(Number(every), reportEveryMs);
      if (desired !== undefined) this.#take(desired);
      if (this.#orders.hasMissed(reply)) this.#again = true;
    } catch {
      // No leader at this moment: the next report is due soon.
    }
  }
}

const [url = "", count = "0", every = "1000"] = process.argv.slice(2);
/** As the leader asks for. */
let everyMs = Number(every);
const connection = await connect({ servers: url, ...connectionOptions });
const nodes = Array.from({ length: Number(count) }, (_, at) => new SimulatedNode(connection, `n${at + 1}`));
// One after the other, evenly over the interval, as many hosts do by chance.
let next = 0;
const TICK_MS = 10;
let due = 0;
setInterval(() => {
  for (due += (nodes.length * TICK_MS) / everyMs; due >= 1; due -= 1) {
    nodes[next % nodes.length]?.report();
    next += 1;
  }
}, TICK_MS);
process.stdin.on("end", () => process.exit(0)).resume();
