/**
 * Many nodes in one process, for the scheduler's benchmark: each reports as an agent does and says of whatever it is
 * told to run that it runs. `simulated-nodes.ts URL COUNT REPORT_EVERY_MS`; ends when its standard input does.
 */
import { connect, type NatsConnection } from "@nats-io/transport-node";

import { desiredSubject, reportSubject } from "../../../proto/contract/subjects.ts";
import { Desired, ObservedAllocation, Report, ReportReply } from "../../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, DesiredState } from "../../../proto/gen/godwit/v1/log.ts";
import { connectionOptions } from "../../../scheduler/mod.ts";
import { sampleNode } from "../../../scheduler/testing/sample.ts";

const GIB = 1024 ** 3;
/** Of one node: large enough for all that the benchmark asks for. */
const CAPACITY = { cpuMillis: 1_000_000, memoryBytes: 1024 * GIB };
const REPLY_TIMEOUT_MS = 20_000;

class SimulatedNode {
  readonly #connection: NatsConnection;
  readonly #name: string;
  #desired: Desired | undefined;
  #observed: ObservedAllocation[] = [];
  #reporting = false;
  #again = false;

  constructor(connection: NatsConnection, name: string) {
    this.#connection = connection;
    this.#name = name;
    connection.subscribe(desiredSubject(name), {
      callback: (error, message) => {
        if (error === null) this.#take(Desired.decode(message.data));
      },
    });
  }

  #take(desired: Desired): void {
    const current = this.#desired;
    if (
      current !== undefined &&
      desired.leaderEpoch <= current.leaderEpoch &&
      desired.revision <= current.revision
    )
      return;
    this.#desired = desired;
    this.#observed = desired.allocations.map((allocation) =>
      ObservedAllocation.fromPartial({
        containerId: allocation.containerId,
        epoch: allocation.epoch,
        state: allocation.desired === DesiredState.STOPPED ? AllocationState.EXITED : AllocationState.RUNNING,
        restartGeneration: allocation.restartGeneration,
        memoryBytes: 4096,
        cpuUsageUsec: 1000,
      }),
    );
    this.report();
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
    const report = Report.fromPartial({
      info: sampleNode(this.#name, CAPACITY),
      incarnation: `i-${this.#name}`,
      desiredRevision: this.#desired?.revision ?? 0,
      load: { cpuMillisUsed: 100, memoryBytesUsed: GIB, load1: 0.1 },
    });
    report.allocations = this.#observed;
    try {
      const message = await this.#connection.request(
        reportSubject(this.#name),
        Report.encode(report).finish(),
        {
          timeout: REPLY_TIMEOUT_MS,
        },
      );
      const { desired } = ReportReply.decode(message.data);
      if (desired !== undefined) this.#take(desired);
    } catch {
      // No leader at this moment: the next report is due soon.
    }
  }
}

const [url = "", count = "0", every = "1000"] = process.argv.slice(2);
const connection = await connect({ servers: url, ...connectionOptions });
const nodes = Array.from({ length: Number(count) }, (_, at) => new SimulatedNode(connection, `n${at + 1}`));
// One after the other, evenly over the interval, as many hosts do by chance.
let next = 0;
const TICK_MS = 10;
const perTick = (nodes.length * TICK_MS) / Number(every);
let due = 0;
setInterval(() => {
  for (due += perTick; due >= 1; due -= 1) {
    nodes[next % nodes.length]?.report();
    next += 1;
  }
}, TICK_MS);
process.stdin.on("end", () => process.exit(0)).resume();
