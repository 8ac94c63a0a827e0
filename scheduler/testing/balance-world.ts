/** Nodes and containers whose load follows a script, with the real state machine and the real balancer; no log, no clock. */
import { Load, ObservedAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import { AllocationState, MigrationState, type Migration } from "../../proto/gen/godwit/v1/log.ts";
import {
  MigrationFigures,
  type BalanceSettings,
  type ContainerSpec,
} from "../../proto/gen/godwit/v1/spec.ts";
import { DEFAULT_BALANCE } from "../model/balance-settings.ts";
import { Balancer } from "../plan/balance/balancer.ts";
import { LoadBook, loadOf, nodeLoadOf } from "../plan/balance/load.ts";
import { command } from "../plan/command.ts";
import type { Cluster } from "../state/cluster.ts";
import { Drive, idOf } from "./drive.ts";
import { FakeVolatile } from "./fake-volatile.ts";
import { sampleNode } from "./sample.ts";

const MIB = 1024 * 1024;
const STEP_MS = 1_000;

interface Guest {
  readonly id: string;
  /** What it would use, in thousandths of a core, at a time since the beginning. */
  wants: (atMs: number) => number;
  readonly memoryBytes: number;
  counters: Map<string, number>;
}

export interface Move {
  readonly atMs: number;
  readonly container: string;
  readonly from: string;
  readonly to: string;
}

export class BalanceWorld {
  readonly drive: Drive;
  readonly volatile = new FakeVolatile();
  readonly balancer: Balancer;
  readonly book = new LoadBook();
  readonly guests = new Map<string, Guest>();
  readonly moves: Move[] = [];
  /** Nodes whose agents say nothing. */
  readonly silent = new Set<string>();
  /** The most moves under way at any time, in all and by node. */
  most = 0;
  mostOfNode = 0;
  moveMs = 3_000;
  blackoutMs = 100;
  /** Why moves to a node fail. */
  failure: ((to: string) => string | undefined) | undefined;
  #nextId = 0x1000;
  readonly #startMs: number;

  constructor(nodes: readonly string[], settings: Partial<BalanceSettings> = {}) {
    this.drive = new Drive(...nodes);
    this.#startMs = this.drive.atMs;
    this.balancer = new Balancer(this.book, this.drive.atMs);
    this.set({ policy: "BALANCE_POLICY_AUTO", ...settings });
  }

  get cluster(): Cluster {
    return this.drive.cluster;
  }
  get atMs(): number {
    return this.drive.atMs - this.#startMs;
  }
  get migrations(): Migration[] {
    return Object.values(this.cluster.state.migrations);
  }

  set(settings: Partial<BalanceSettings>): void {
    this.drive.must(command("balanceSet", { settings: { ...DEFAULT_BALANCE, ...settings } }));
  }

  run(
    name: string,
    node: string,
    wants: number | Guest["wants"],
    options: { memoryMib?: number; spec?: Partial<ContainerSpec> } = {},
  ): Guest {
    const number = this.guests.size + 1;
    this.drive.run(number, name, node, options.spec ?? {});
    const guest: Guest = {
      id: idOf(number),
      wants: typeof wants === "number" ? () => wants : wants,
      memoryBytes: (options.memoryMib ?? 20) * MIB,
      counters: new Map(),
    };
    this.guests.set(name, guest);
    return guest;
  }

  nodeOf(name: string): string {
    return this.cluster.state.containers[this.guests.get(name)?.id ?? ""]?.allocation?.node ?? "";
  }

  /** What its containers want, as a share of the node. */
  wanted(node: string): number {
    const [name] = [node];
    let millis = 0;
    for (const guest of this.guests.values())
      if (this.cluster.state.containers[guest.id]?.allocation?.node === name)
        millis += guest.wants(this.atMs);
    return millis / sampleNode(node).cpuMillis;
  }

  smoothed(node: string): number {
    const usage = this.book.node(node);
    return usage === undefined ? 0 : loadOf(nodeLoadOf(sampleNode(node), usage));
  }

  go(seconds: number): void {
    for (let step = 0; step < seconds; step += 1) this.step();
  }

  step(): void {
    this.drive.atMs += STEP_MS;
    this.#report();
    this.#finishMoves();
    this.#round();
  }

  #report(): void {
    for (const node of Object.keys(this.cluster.state.nodes)) {
      const here = [...this.guests.values()].filter(
        ({ id }) => this.cluster.state.containers[id]?.allocation?.node === node,
      );
      const wanted = here.map((guest) => Math.max(0, guest.wants(this.atMs)));
      const capacity = sampleNode(node).cpuMillis;
      const share = Math.min(
        1,
        capacity /
          Math.max(
            1,
            wanted.reduce((sum, one) => sum + one, 0),
          ),
      );
      const allocations = here.map((guest, at) => {
        const usec = (guest.counters.get(node) ?? 0) + (wanted[at] ?? 0) * share * STEP_MS;
        guest.counters = new Map([[node, usec]]);
        return ObservedAllocation.fromPartial({
          containerId: guest.id,
          epoch: this.cluster.state.containers[guest.id]?.allocation?.epoch ?? 0,
          state: AllocationState.RUNNING,
          memoryBytes: guest.memoryBytes,
          cpuUsageUsec: usec,
        });
      });
      if (this.silent.has(node)) continue;
      const news = this.volatile.report(node, allocations);
      const load = Load.fromPartial({ measuredAtMs: this.drive.atMs });
      this.book.accept(this.cluster, node, { info: sampleNode(node), load, ...news }, this.drive.atMs);
    }
  }

  #finishMoves(): void {
    for (const migration of this.migrations) {
      const { id, to } = migration;
      const reason = migration.state === MigrationState.RUNNING ? this.failure?.(to) : undefined;
      if (reason !== undefined) {
        this.drive.must(command("migrationAborted", { id, reason }));
        continue;
      }
      if (
        migration.state === MigrationState.RUNNING &&
        this.drive.atMs - migration.startedAtMs >= this.moveMs
      )
        this.drive.must(command("migrationSwitched", { id }));
      else if (migration.state === MigrationState.SWITCHED) {
        this.drive.observe(Number.parseInt(migration.containerId, 16), AllocationState.RUNNING);
        const figures = MigrationFigures.fromPartial({
          blackoutMs: this.blackoutMs,
          totalMs: this.moveMs,
          memoryBytes: 20 * MIB,
          sentBytes: 20 * MIB,
        });
        this.drive.must(command("migrationFinished", { id, figures }));
      }
    }
  }

  #round(): void {
    const terms = { cluster: this.cluster, seen: this.volatile, nowMs: this.drive.atMs };
    for (const one of this.balancer.round(terms, () => idOf((this.#nextId += 1)))) {
      this.drive.must(one);
      if (one.command?.$case !== "migrationStarted") continue;
      const { containerId, from, to } = one.command.value;
      const name = this.cluster.state.containers[containerId]?.spec?.name ?? "";
      this.moves.push({ atMs: this.atMs, container: name, from, to });
    }
    const underWay = new Map<string, number>();
    for (const id of this.cluster.index.moving) {
      const migration = this.cluster.state.migrations[id];
      for (const node of [migration?.from ?? "", migration?.to ?? ""])
        underWay.set(node, (underWay.get(node) ?? 0) + 1);
    }
    this.most = Math.max(this.most, this.cluster.index.moving.size);
    this.mostOfNode = Math.max(this.mostOfNode, 0, ...underWay.values());
  }
}
