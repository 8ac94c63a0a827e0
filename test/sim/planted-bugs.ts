/** Bugs that a simulation has to find: each is a rule of the product, left out by rewriting the line that keeps it. */

export interface Rewrite {
  readonly file: string;
  /** There exactly once. */
  readonly line: string;
  readonly instead: string;
}
export interface Planted {
  readonly name: string;
  readonly what: string;
  readonly rewrites: readonly Rewrite[];
}

export const PLANTED: readonly Planted[] = [
  {
    name: "no-epoch-check",
    what: "A scheduler that was overtaken goes on writing, and what it writes is applied",
    rewrites: [
      {
        file: "scheduler/state/apply.ts",
        line: "if (context.epoch !== cluster.state.epoch)",
        instead: "if (context.epoch > cluster.state.epoch)",
      },
      {
        file: "scheduler/log/committer.ts",
        line: "this.#epoch === this.replica.cluster.state.epoch &&",
        instead: "",
      },
    ],
  },
  {
    name: "applied-twice",
    what: "A replica that catches up applies its last entry once more",
    rewrites: [
      {
        file: "scheduler/log/replica.ts",
        line: "if (sequence !== this.#sequence + 1)",
        instead: "if (sequence > this.#sequence + 1)",
      },
      {
        file: "scheduler/log/replica.ts",
        line: "if (!entry.prevHash.equals(this.#chainHash))",
        instead: "if (sequence > this.#sequence && !entry.prevHash.equals(this.#chainHash))",
      },
      {
        file: "scheduler/log/committer.ts",
        line: "log.read(replica.sequence + 1, last)",
        instead: "log.read(Math.max(first, replica.sequence), last)",
      },
    ],
  },
  {
    name: "appended-again",
    what: "An append without an answer counts as failed, and its commands are appended again",
    rewrites: [
      {
        file: "scheduler/log/appender.ts",
        line: `if (attempt === 0) logger.warn({ err: error, sequence }, "an append was not answered; trying again");`,
        instead: `return "conflict";`,
      },
    ],
  },
  {
    name: "stale-read",
    what: "A report that was made before the node had read its orders counts as one made after",
    rewrites: [
      {
        file: "scheduler/leader/report-service.ts",
        line: "const settled = !sender.isBehind(cluster, name) && sender.revisionOf(name) === report.desiredRevision;",
        instead: "const settled = true;",
      },
      {
        file: "scheduler/leader/reports.ts",
        line: "if (seen !== undefined) seen.current = false;",
        instead: "",
      },
    ],
  },
  {
    name: "thawed-on-timeout",
    what: "A source that gets no answer to its last piece thaws the container by itself",
    rewrites: [
      {
        file: "agent/allocation/allocation.ts",
        line: `if (status?.kind === "frozen" && status.sent === "no") await this.#thaw();`,
        instead: `if (status?.kind === "frozen") await this.#thaw();`,
      },
    ],
  },
  {
    name: "switched-too-early",
    what: "A migration is switched when its target receives, not when it has restored",
    rewrites: [
      {
        file: "scheduler/plan/migrations.ts",
        line: `return seen?.target?.phase === MigrationPhase.RESTORED ? command("migrationSwitched", { id }) : undefined;`,
        instead: `return seen?.target?.phase === MigrationPhase.RECEIVING ? command("migrationSwitched", { id }) : undefined;`,
      },
    ],
  },
  {
    name: "target-lost-unnoticed",
    what: "A migration goes on when its target is lost",
    rewrites: [
      {
        file: "scheduler/plan/migrations.ts",
        line: "return lost(cluster, migration.from) ?? lost(cluster, migration.to);",
        instead: "return lost(cluster, migration.from);",
      },
    ],
  },
  {
    name: "placed-on-cordoned",
    what: "A cordoned node takes new containers",
    rewrites: [
      {
        file: "scheduler/state/fit/node-state.ts",
        line: "blocks: (_, { node }) => node.state === NodeState.LOST || !node.schedulable,",
        instead: "blocks: (_, { node }) => node.state === NodeState.LOST,",
      },
      {
        file: "scheduler/state/fit/node-state.ts",
        line: "if (node.schedulable) return undefined;",
        instead: "if (node.info !== undefined) return undefined;",
      },
    ],
  },
  {
    name: "capacity-ignored",
    what: "A node takes more than it has",
    rewrites: [
      {
        file: "scheduler/state/capacity.ts",
        line: "(wanted.memoryBytes === 0 || wanted.memoryBytes <= (node.info?.memoryBytes ?? 0) - use.memoryBytes) &&",
        instead: "",
      },
      {
        file: "scheduler/state/capacity.ts",
        line: "check.wanted > 0 && check.wanted > check.free",
        instead: `check.of !== "memory" && check.wanted > 0 && check.wanted > check.free`,
      },
    ],
  },
  {
    name: "source-killed-early",
    what: "The source is told to let go of its frozen copy before the container runs at its target",
    rewrites: [
      {
        file: "scheduler/plan/desired.ts",
        line: "const held = role === Role.RELEASED && !mayBeReleased(volatile, migration) ? Role.SOURCE : role;",
        instead: "const held = role;",
      },
    ],
  },
  {
    name: "orders-out-of-order",
    what: "An agent follows whatever order comes last, also an older one",
    rewrites: [
      {
        file: "proto/contract/orders.ts",
        line: "leaderEpoch > this.#leaderEpoch || (leaderEpoch === this.#leaderEpoch && revision > this.#revision);",
        instead: "leaderEpoch !== this.#leaderEpoch || revision !== this.#revision;",
      },
    ],
  },
  {
    name: "difference-without-base",
    what: "An agent follows what has changed since orders that it has never had",
    rewrites: [
      {
        file: "proto/contract/orders.ts",
        line: "if (base !== 0 && (leaderEpoch !== this.#leaderEpoch || base > this.#revision))",
        instead: "if (base !== 0 && this.#revision === -1)",
      },
    ],
  },
  {
    name: "image-thrown-away",
    what: "A target that restarts after the switch throws away the image that it has received, and begins anew",
    rewrites: [
      {
        file: "agent/model/next-step.ts",
        line: `status.stage !== "receiving"`,
        instead: `status.stage === "given-up"`,
      },
      {
        file: "agent/model/next-step.ts",
        line: "if (desired.migration?.switched === true) return NONE;\n    const { restore }",
        instead: "const { restore }",
      },
    ],
  },
  {
    name: "return-not-inherited",
    what: "A source that gets its container back takes its own copy for an old one",
    rewrites: [
      {
        file: "scheduler/state/apply-migration.ts",
        line: "inheritsEpoch: epoch - 1,",
        instead: "inheritsEpoch: 0,",
      },
    ],
  },
  {
    name: "removed-before-told",
    what: "An agent that has just started does not wait for its orders",
    rewrites: [
      {
        file: "agent/allocation/allocation.ts",
        line: `    if (!this.#ordered) {
      const status`,
        instead: `    if (this.id === "") {
      const status`,
      },
    ],
  },
  {
    name: "snapshot-not-read-back",
    what: "The log is trimmed behind the newest snapshot, which nobody has read",
    rewrites: [
      {
        file: "scheduler/log/snapshots.ts",
        line: "await this.#load(info);\n    const list",
        instead: "const list",
      },
      {
        file: "scheduler/log/snapshots.ts",
        line: "const KEPT = 2;",
        instead: "const KEPT = 1;",
      },
    ],
  },
  {
    name: "failover-before-fencing",
    what: "Containers of a lost node are started elsewhere without the time that its fence may take",
    rewrites: [
      {
        file: "scheduler/leader/reports.ts",
        line: "return this.leaseUntilMs(node) + longerMs + fenceMarginMs(this.#leaseMs);",
        instead: "return 0 * longerMs * fenceMarginMs(this.leaseUntilMs(node));",
      },
    ],
  },
  {
    name: "new-leader-knows-silence",
    what: "A new leader takes nodes that it has not heard of yet for lost",
    rewrites: [
      {
        file: "scheduler/leader/reports.ts",
        line: "this.#graceUntilMs = nowMs + leaseMs;",
        instead: "this.#graceUntilMs = nowMs;",
      },
      {
        file: "scheduler/leader/leader.ts",
        line: "this.reports.grace(this.#lastTickMs + leaderLeaseMs);",
        instead: "",
      },
    ],
  },
  {
    name: "fence-thaws-all",
    what: "A host whose lease is renewed lets everything go on, also what was started elsewhere meanwhile",
    rewrites: [
      {
        file: "agent/node/node.ts",
        line: "this.#host.cgroups.container(CONTAINERS_CGROUP).holdEach();",
        instead: "",
      },
    ],
  },
  {
    name: "let-go-while-filling",
    what: "The source of a post-copy is told to let go when the container runs, not when it has all of its memory",
    rewrites: [
      {
        file: "scheduler/plan/arrived.ts",
        line: "hasArrived(seen, migration) && (migration.mode !== MigrationMode.POSTCOPY || isWhole(seen, migration));",
        instead: "hasArrived(seen, migration);",
      },
    ],
  },
  {
    name: "begun-anew-after-switch",
    what: "A target that has lost what it received begins the container anew, and its source still has it",
    rewrites: [
      {
        file: "agent/model/next-step.ts",
        line: "if (desired.migration?.switched === true) return NONE;\n    const { restore }",
        instead: "const { restore }",
      },
    ],
  },
  {
    name: "kept-by-one",
    what: "A checkpoint counts as stored when one of its keepers has it",
    rewrites: [
      {
        file: "scheduler/plan/checkpoints.ts",
        line: "if (sent?.phase === CheckpointPhase.SENT) {",
        instead: "if (sent !== undefined) {",
      },
      {
        file: "scheduler/plan/checkpoints.ts",
        line: "if (keepers.every((keeper) => keepsAll(volatile, keeper, needed)))",
        instead: "if (keepers.some((keeper) => keepsAll(volatile, keeper, needed)))",
      },
    ],
  },
  {
    name: "base-not-held",
    what: "A keeper deletes what a newer checkpoint builds upon as soon as it is replaced",
    rewrites: [
      {
        file: "scheduler/state/apply-checkpoint.ts",
        line: "if (isBuiltUpon(cluster, checkpoint)) {",
        instead: "if (isBuiltUpon(cluster, checkpoint) && checkpoint.superseded) {",
      },
    ],
  },
  {
    name: "checkpoint-not-named",
    what: "A node that a container is to go on at is not told of the checkpoint",
    rewrites: [
      {
        file: "scheduler/plan/desired.ts",
        line: "if (checkpointId === allocation?.restoreFrom) {",
        instead: `if (checkpointId === "") {`,
      },
    ],
  },
  {
    name: "no-rest",
    what: "The balancer moves a container again that it has just moved",
    rewrites: [
      {
        file: "scheduler/plan/balance/choose.ts",
        line: "if (this.#restsUntilMs(container) > nowMs)",
        instead: "if (this.#restsUntilMs(container) === nowMs)",
      },
      {
        file: "scheduler/plan/balance/choose.ts",
        line: "if (left.has(to.node)) continue;",
        instead: "",
      },
    ],
  },
  {
    name: "remembered-unwritten",
    what: "An agent goes by what it was about to do, also where its disk has not taken that",
    rewrites: [
      {
        file: "agent/allocation/container.ts",
        line: `writeRecord(this.host.config, record);
    this.#record = record;`,
        instead: `this.#record = record;
    writeRecord(this.host.config, record);`,
      },
    ],
  },
  {
    name: "granted-again",
    what: "A request that is sent again is granted once more",
    rewrites: [
      {
        file: "scheduler/state/requests.ts",
        line: "if (index.requests.has(requestId)) return true;",
        instead: "",
      },
    ],
  },
];
