import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  AllocationState,
  DesiredState,
  MigrationState,
  NodeState,
  State,
  type Command,
} from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, MigrationPolicy, type Resources } from "../../proto/gen/godwit/v1/spec.ts";
import { stateHash } from "../log/replica.ts";
import { command } from "../plan/command.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { digestOf, MIB, sampleImage, sampleNode, sampleSpec } from "../testing/sample.ts";
import { apply } from "./apply.ts";
import { clusterOf, emptyCluster, type Cluster } from "./cluster.ts";
import { canonicalPieces } from "./hash.ts";

const limits = (memoryBytes: number): Resources => ({ memoryBytes, cpuMillis: 0, pids: 0, diskBytes: 0 });

describe("leadership", () => {
  test("commands of any epoch but the present one change nothing", () => {
    const drive = new Drive("n1");
    drive.epoch(5);
    const cordon = command("nodeSchedulableSet", { node: "n1", schedulable: false });
    for (const epoch of [0, 1, 4, 6]) expect(drive.try(cordon, epoch)?.code).toBe("refused");
    expect(drive.cluster.state.nodes["n1"]?.schedulable).toBe(true);
    expect(drive.try(cordon, 5)).toBeUndefined();
  });
  test("an election needs a higher epoch", () => {
    const drive = new Drive();
    for (const [epoch, refused] of [
      [1, true],
      [0, true],
      [2, false],
    ] as const)
      expect(drive.try(command("leaderElected", { schedulerId: "s2", epoch }), epoch) !== undefined).toBe(
        refused,
      );
    expect(drive.cluster.state).toMatchObject({ leaderId: "s2", epoch: 2 });
  });
  test("an unknown command stops the replica", () => {
    expect(() => apply(emptyCluster(), { command: undefined }, { atMs: 0, epoch: 0 })).toThrow(
      /does not know/,
    );
  });
});

describe("containers", () => {
  test("what is wrong with a creation is said", () => {
    const drive = new Drive("n1");
    drive.create(1, "web");
    const cases = [
      [{ id: "x", spec: sampleSpec("a") }, "invalid"],
      [{ id: idOf(2), spec: undefined }, "invalid"],
      [{ id: idOf(2), spec: sampleSpec("Web") }, "invalid"],
      [{ id: idOf(2), spec: sampleSpec("web", { imageDigest: digestOf("a") }) }, "exists"],
      [{ id: idOf(1), spec: sampleSpec("other", { imageDigest: digestOf("a") }) }, "exists"],
      [
        { id: idOf(2), spec: sampleSpec("other", { image: "nginx", imageDigest: digestOf("b") }) },
        "not-found",
      ],
      [
        { id: idOf(2), spec: sampleSpec("other", { imageDigest: digestOf("a"), limits: limits(MIB) }) },
        "invalid",
      ],
    ] as const;
    for (const [value, code] of cases)
      expect(drive.try(command("containerCreated", value))?.code, JSON.stringify(value)).toBe(code);
  });

  test("addresses: each its own, none ending in 0 or 255, freed ones last and in order", () => {
    const drive = new Drive();
    drive.cluster.state.nextAddress = 254 * 256 + 252;
    const addresses = [1, 2, 3].map((number) => drive.create(number, `c${number}`).address);
    expect(addresses).toEqual(["10.88.254.252", "10.88.254.253", "10.88.254.254"]);
    const full = command("containerCreated", {
      id: idOf(9),
      spec: sampleSpec("c9", { imageDigest: digestOf("a") }),
    });
    expect(drive.try(full)?.code).toBe("exhausted");
    for (const number of [2, 1]) {
      drive.must(command("containerRemoveRequested", { id: idOf(number), force: false }));
      drive.must(command("containerRemoved", { id: idOf(number) }));
    }
    expect([drive.create(4, "c4").address, drive.create(5, "c5").address]).toEqual([
      "10.88.254.253",
      "10.88.254.252",
    ]);
    const fresh = new Drive();
    fresh.cluster.state.nextAddress = 254;
    expect([1, 2, 3].map((number) => fresh.create(number, `c${number}`))).toMatchObject([
      { address: "10.88.0.254", mac: "02:57:0a:58:00:fe" },
      { address: "10.88.1.1" },
      { address: "10.88.1.2" },
    ]);
  });

  test("a running container goes only by force, and its migration ends with it", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    expect(drive.startMove(7, 1, "n2")).toBeUndefined();
    expect(drive.try(command("containerRemoveRequested", { id: idOf(1), force: false }))?.code).toBe(
      "refused",
    );
    expect(drive.try(command("containerRemoved", { id: idOf(1) }))?.code).toBe("refused");
    drive.must(command("containerRemoveRequested", { id: idOf(1), force: true }));
    expect(drive.cluster.state.migrations[idOf(7)]).toMatchObject({
      state: MigrationState.ABORTED,
      error: "the container was removed",
    });
    drive.must(command("containerRemoved", { id: idOf(1) }));
    expect(drive.cluster.state.freeAddresses).toEqual([2]);
    drive.create(2, "web");
  });

  test("stopping or restarting a container that moves aborts the move, before the switch only", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    drive.must(
      command("containerDesiredSet", { id: idOf(1), desired: DesiredState.RUNNING, restartGeneration: 1 }),
    );
    expect(drive.cluster.state.migrations[idOf(7)]?.error).toBe("the container was restarted");
    expect(drive.try(command("migrationSwitched", { id: idOf(7) }))?.code).toBe("refused");
    drive.startMove(8, 1, "n2");
    drive.must(command("migrationSwitched", { id: idOf(8) }));
    drive.must(
      command("containerDesiredSet", { id: idOf(1), desired: DesiredState.STOPPED, restartGeneration: 1 }),
    );
    expect(drive.cluster.state.migrations[idOf(8)]?.state).toBe(MigrationState.SWITCHED);
  });

  test("the owner's observations of the present epoch count, and nobody else's", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    const seen = {
      containerId: idOf(1),
      state: AllocationState.EXITED,
      exitCode: 3,
      restarts: 0,
      message: "",
    };
    expect(drive.try(command("allocationObserved", { ...seen, node: "n2", epoch: 1 }))?.code).toBe("refused");
    expect(drive.try(command("allocationObserved", { ...seen, node: "n1", epoch: 2 }))?.code).toBe("refused");
    drive.must(command("allocationObserved", { ...seen, node: "n1", epoch: 1 }));
    expect(drive.container(1).allocation).toMatchObject({ state: AllocationState.EXITED, exitCode: 3 });
  });
});

describe("migrations", () => {
  test("which container may be moved where", () => {
    const cases: [
      string,
      (drive: Drive) => void,
      { container?: number; to?: string },
      string | undefined,
      RegExp | undefined,
    ][] = [
      ["plain", () => undefined, {}, undefined, undefined],
      [
        "stopped",
        (d) => d.observe(1, AllocationState.EXITED, 1),
        {},
        "refused",
        /is stopped \(it exited with code 1\).*start it first/,
      ],
      ["not placed", (d) => void d.create(2, "b"), { container: 2 }, "refused", /has no node yet/],
      ["same node", () => undefined, { to: "n1" }, "refused", /already on n1/],
      ["no such node", () => undefined, { to: "n9" }, "not-found", /no node n9/],
      [
        "cordoned",
        (d) => d.must(command("nodeSchedulableSet", { node: "n2", schedulable: false })),
        {},
        "refused",
        /cordoned/,
      ],
      [
        "target lost",
        (d) => d.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "silent" })),
        {},
        "refused",
        /n2 is lost: silent/,
      ],
      [
        "source lost",
        (d) => d.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" })),
        {},
        "refused",
        /its node n1 is lost/,
      ],
      [
        "no room",
        (d) => void d.run(2, "b", "n2", { limits: limits(900 * MIB) }),
        {},
        "exhausted",
        /n2 lacks 512 MiB of memory \(has 124 MiB free\)/,
      ],
      ["moving", (d) => void d.startMove(8, 1, "n2"), {}, "refused", /already moving to n2/],
      [
        "being removed",
        (d) => d.must(command("containerRemoveRequested", { id: idOf(1), force: true })),
        {},
        "refused",
        /being removed/,
      ],
    ];
    for (const [name, prepare, { container = 1, to = "n2" }, code, message] of cases) {
      const drive = new Drive("n1", "n2");
      drive.run(1, "web", "n1", { limits: limits(512 * MIB) });
      prepare(drive);
      const outcome = drive.startMove(7, container, to);
      expect(outcome?.code, name).toBe(code);
      if (message !== undefined) expect(outcome?.message, name).toMatch(message);
    }
  });

  test("policies: never and cold stay, unless a forced drain moves them", () => {
    for (const migration of [MigrationPolicy.NEVER, MigrationPolicy.COLD]) {
      const drive = new Drive("n1", "n2");
      drive.run(1, "web", "n1", { migration });
      expect(drive.startMove(7, 1, "n2")?.code).toBe("refused");
      drive.must(
        command("drainStarted", { node: "n1", drainId: "d1", deadlineMs: 0, parallel: 1, force: false }),
      );
      expect(drive.startMove(7, 1, "n2", "d1")?.code).toBe("refused");
      drive.must(command("drainEnded", { node: "n1", drainId: "d1", outcome: "cancelled" }));
      drive.must(
        command("drainStarted", { node: "n1", drainId: "d2", deadlineMs: 0, parallel: 1, force: true }),
      );
      expect(drive.startMove(7, 1, "n2", "d2")).toBeUndefined();
    }
  });

  test("only the switch moves ownership, and nothing undoes it", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    expect(drive.container(1).allocation).toMatchObject({ node: "n1", epoch: 1 });
    expect(drive.try(command("migrationFinished", { id: idOf(7), figures: undefined }))?.code).toBe(
      "refused",
    );
    drive.must(command("migrationSwitched", { id: idOf(7) }));
    expect(drive.container(1).allocation).toMatchObject({
      node: "n2",
      epoch: 2,
      state: AllocationState.STARTING,
    });
    for (const late of [
      command("migrationAborted", { id: idOf(7), reason: "x" }),
      command("migrationCancelRequested", { id: idOf(7) }),
      command("migrationSwitched", { id: idOf(7) }),
    ])
      expect(drive.try(late)?.code).toBe("refused");
    drive.must(command("migrationFinished", { id: idOf(7), figures: undefined }));
    expect(drive.container(1).migrationId).toBe("");
  });

  test("a cancelled one is not switched any more", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    drive.must(command("migrationCancelRequested", { id: idOf(7) }));
    expect(drive.try(command("migrationSwitched", { id: idOf(7) }))?.code).toBe("refused");
  });

  test("the newest 500 ended ones are kept", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    for (let at = 1; at <= 510; at += 1) {
      drive.atMs += 1;
      drive.startMove(1000 + at, 1, "n2");
      drive.must(command("migrationAborted", { id: idOf(1000 + at), reason: "" }));
    }
    expect(Object.keys(drive.cluster.state.migrations)).toHaveLength(500);
    expect(drive.cluster.state.migrations[idOf(1010)]).toBeUndefined();
    expect(drive.cluster.state.migrations[idOf(1011)]).toBeDefined();
  });
});

describe("images", () => {
  test("one that is used is not removed, and a replaced one stays for as long as it is needed", () => {
    const drive = new Drive("n1");
    drive.create(1, "web");
    expect(drive.try(command("imageRemoved", { name: "redis" }))).toMatchObject({
      code: "refused",
      message: /used by web/,
    });
    drive.must(command("imageAdded", { image: sampleImage("redis", "b") }));
    expect(drive.cluster.state.images[digestOf("a")]?.digest).toBe(digestOf("a"));
    expect(drive.try(command("imageRemoved", { name: digestOf("a") }))?.code).toBe("refused");
    drive.must(command("imageRemoved", { name: "redis" }));
    drive.must(command("containerRemoveRequested", { id: idOf(1), force: false }));
    drive.must(command("containerRemoved", { id: idOf(1) }));
    expect(Object.keys(drive.cluster.state.images)).toEqual([]);
  });
});

describe("nodes", () => {
  test("names that an object knows by itself are names like any other", () => {
    const drive = new Drive("constructor", "n1");
    expect(drive.cluster.state.nodes["valueof"]).toBeUndefined();
    expect(drive.try(command("nodeSchedulableSet", { node: "tostring", schedulable: true }))?.code).toBe(
      "not-found",
    );
    drive.run(1, "web", "constructor");
    expect(drive.container(1).allocation?.node).toBe("constructor");
  });
  test("an uncordoned node is not drained any more", () => {
    const drive = new Drive("n1");
    drive.must(
      command("drainStarted", { node: "n1", drainId: "d1", deadlineMs: 0, parallel: 0, force: false }),
    );
    expect(drive.cluster.state.nodes["n1"]).toMatchObject({
      schedulable: false,
      drain: { parallel: 1, outcome: "" },
    });
    expect(
      drive.try(
        command("drainStarted", { node: "n1", drainId: "d2", deadlineMs: 0, parallel: 0, force: false }),
      )?.code,
    ).toBe("refused");
    drive.must(command("nodeSchedulableSet", { node: "n1", schedulable: true }));
    expect(drive.cluster.state.nodes["n1"]?.drain?.outcome).toBe("cancelled");
    expect(drive.try(command("drainEnded", { node: "n1", drainId: "d1", outcome: "drained" }))?.code).toBe(
      "refused",
    );
  });
  test("a removed node's containers wait for another one, with a higher epoch", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    expect(drive.try(command("nodeRemoved", { node: "n1" }))?.code).toBe("refused");
    drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" }));
    drive.must(command("nodeRemoved", { node: "n1" }));
    expect([...drive.cluster.index.unplaced]).toEqual([idOf(1)]);
    expect(drive.try(command("allocationPlaced", { containerId: idOf(1), node: "n2", epoch: 1 }))?.code).toBe(
      "refused",
    );
    drive.place(1, "n2");
    expect(drive.container(1).allocation).toMatchObject({ node: "n2", epoch: 2 });
    expect(drive.cluster.index.unplaced.size).toBe(0);
  });
});

/** Everything that a change could show in. */
const plainIndex = ({ index }: Cluster): unknown => {
  const sets = (map: ReadonlyMap<string, ReadonlySet<string>>): unknown =>
    [...map].map(([key, set]) => [key, [...set].toSorted()]).toSorted();
  return {
    idByName: [...index.idByName].toSorted(),
    onNode: sets(index.onNode),
    arriving: sets(index.arriving),
    leaving: sets(index.leaving),
    imageUsers: sets(index.imageUsers),
    use: [...index.use].toSorted(([a], [b]) => (a < b ? -1 : 1)),
    unplaced: [...index.unplaced].toSorted(),
    removing: [...index.removing].toSorted(),
    moving: [...index.moving].toSorted(),
    draining: [...index.draining].toSorted(),
    ended: index.ended,
  };
};
const encoded = (cluster: Cluster): Buffer => Buffer.concat([...canonicalPieces(cluster)]);

describe("properties", () => {
  const node = fc.constantFrom("n1", "n2", "n3");
  const id = fc.integer({ min: 1, max: 4 }).map(idOf);
  const migration = fc.integer({ min: 101, max: 106 }).map(idOf);
  const epoch = fc.integer({ min: 1, max: 4 });
  const make =
    <C extends Parameters<typeof command>[0]>($case: C) =>
    (value: Parameters<typeof command<C>>[1]): Command =>
      command($case, value);
  const anyCommand = fc.oneof(
    {
      weight: 2,
      arbitrary: fc
        .record({ info: node.map((name) => sampleNode(name)), incarnation: fc.constantFrom("a", "b") })
        .map(make("nodeJoined")),
    },
    fc
      .record({ node, state: fc.constantFrom(NodeState.READY, NodeState.LOST), reason: fc.constant("") })
      .map(make("nodeStateChanged")),
    fc.record({ node, schedulable: fc.boolean() }).map(make("nodeSchedulableSet")),
    fc.record({ node }).map(make("nodeRemoved")),
    fc
      .record({
        node,
        drainId: fc.constantFrom("d1", "d2"),
        deadlineMs: fc.constant(0),
        parallel: fc.constant(1),
        force: fc.boolean(),
      })
      .map(make("drainStarted")),
    fc
      .record({ node, drainId: fc.constantFrom("d1", "d2"), outcome: fc.constantFrom("drained", "") })
      .map(make("drainEnded")),
    fc
      .record({
        image: fc.constantFrom(sampleImage("redis", "a"), sampleImage("redis", "b"), sampleImage("web", "a")),
      })
      .map(make("imageAdded")),
    fc.record({ name: fc.constantFrom("redis", "web", digestOf("a")) }).map(make("imageRemoved")),
    {
      weight: 3,
      arbitrary: fc
        .record({
          id,
          spec: fc
            .record({
              name: fc.constantFrom("a", "b", "c"),
              memoryMib: fc.constantFrom(0, 400),
              digest: fc.constantFrom("a", "b"),
            })
            .map(({ name, memoryMib, digest }) =>
              sampleSpec(name, { imageDigest: digestOf(digest), limits: limits(memoryMib * MIB) }),
            ),
        })
        .map(make("containerCreated")),
    },
    fc
      .record({
        id,
        desired: fc.constantFrom(DesiredState.RUNNING, DesiredState.STOPPED),
        restartGeneration: fc.integer({ min: 0, max: 2 }),
      })
      .map(make("containerDesiredSet")),
    fc.record({ id, force: fc.boolean() }).map(make("containerRemoveRequested")),
    fc.record({ id }).map(make("containerRemoved")),
    { weight: 3, arbitrary: fc.record({ containerId: id, node, epoch }).map(make("allocationPlaced")) },
    {
      weight: 4,
      arbitrary: fc
        .record({
          containerId: id,
          node,
          epoch,
          state: fc.constantFrom(AllocationState.RUNNING, AllocationState.EXITED),
          exitCode: fc.constant(0),
          restarts: fc.constant(0),
          message: fc.constant(""),
        })
        .map(make("allocationObserved")),
    },
    {
      weight: 5,
      arbitrary: fc
        .record({
          id: migration,
          containerId: id,
          from: node,
          to: node,
          epoch,
          mode: fc.constant(MigrationMode.AUTO),
          blackoutBudgetMs: fc.constant(0),
          drainId: fc.constantFrom("", "d1"),
          reason: fc.constant("operator"),
        })
        .map(make("migrationStarted")),
    },
    { weight: 3, arbitrary: fc.record({ id: migration }).map(make("migrationSwitched")) },
    fc.record({ id: migration, reason: fc.constant("") }).map(make("migrationAborted")),
    fc.record({ id: migration, figures: fc.constant(undefined) }).map(make("migrationFinished")),
    fc.record({ id: migration }).map(make("migrationCancelRequested")),
  );

  /** With what only a well informed sender knows put right, or hardly any command would apply. */
  const fitting = (drive: Drive, { command: raw }: Command): Command => {
    if (raw === undefined) return { command: raw };
    const [moving] = drive.cluster.index.moving;
    if (/^migration(?!Started)/.test(raw.$case) && moving !== undefined)
      return { command: { ...raw, value: { ...raw.value, id: moving } } as typeof raw };
    if (!("containerId" in raw.value)) return { command: raw };
    const { node = "", epoch: now = 0 } =
      drive.cluster.state.containers[raw.value.containerId]?.allocation ?? {};
    if (raw.$case === "allocationPlaced") return command(raw.$case, { ...raw.value, epoch: now + 1 });
    if (raw.$case === "migrationStarted")
      return command(raw.$case, { ...raw.value, from: node, epoch: now + 1 });
    return raw.$case === "allocationObserved"
      ? command(raw.$case, { ...raw.value, node, epoch: now })
      : { command: raw };
  };

  test("a rejection changes nothing, the index follows, a snapshot continues alike, and ownership only moves forward", () => {
    let applied = 0;
    let switched = 0;
    fc.assert(
      fc.property(
        fc.array(anyCommand, { minLength: 60, maxLength: 160, size: "max" }),
        fc.nat(159),
        (commands, snapshotAt) => {
          const drive = new Drive("n1", "n2", "n3");
          for (const [position, name] of ["a", "b", "c"].entries())
            drive.run(position + 1, name, `n${position + 1}`, { limits: limits(300 * MIB) });
          let twin: Cluster | undefined;
          const epochs = new Map<string, number>();
          for (const [at, raw] of commands.entries()) {
            const one = at % 4 === 0 ? raw : fitting(drive, raw);
            if (at === snapshotAt) twin = clusterOf(State.decode(encoded(drive.cluster)));
            drive.atMs += at % 3;
            const before = encoded(drive.cluster);
            const outcome = drive.try(one);
            if (outcome === undefined) {
              applied += 1;
              if (one.command?.$case === "migrationSwitched") switched += 1;
            } else expect(encoded(drive.cluster).equals(before)).toBe(true);
            expect(plainIndex(drive.cluster)).toEqual(
              plainIndex(clusterOf(State.decode(encoded(drive.cluster)))),
            );
            if (twin !== undefined) {
              apply(twin, one, { atMs: drive.atMs, epoch: drive.cluster.state.epoch });
              expect(stateHash(twin)).toBe(stateHash(drive.cluster));
            }
            const { containers, migrations } = drive.cluster.state;
            const all = Object.values(containers);
            expect(new Set(all.map((container) => container.address)).size).toBe(all.length);
            for (const container of all) {
              const epochNow = container.allocation?.epoch ?? 0;
              expect(epochNow).toBeGreaterThanOrEqual(epochs.get(container.id + container.createdAtMs) ?? 0);
              epochs.set(container.id + container.createdAtMs, epochNow);
              if (container.migrationId !== "")
                expect([MigrationState.RUNNING, MigrationState.SWITCHED]).toContain(
                  migrations[container.migrationId]?.state,
                );
            }
            for (const [name, use] of drive.cluster.index.use)
              if (drive.cluster.state.nodes[name] !== undefined)
                expect(use.memoryBytes).toBeLessThanOrEqual(1024 * MIB);
          }
        },
      ),
      { numRuns: 100 },
    );
    // The generator must reach the interesting states for this to mean anything.
    expect(applied).toBeGreaterThan(1_000);
    expect(switched).toBeGreaterThan(5);
  });

  test("the hash depends on what is in the maps, not on the order of arrival", () => {
    const forward = emptyCluster();
    const backward = emptyCluster();
    const images = ["a", "b", "c"].map((letter) =>
      command("imageAdded", { image: sampleImage(`i${letter}`, letter) }),
    );
    for (const one of images) apply(forward, one, { atMs: 0, epoch: 0 });
    for (const one of images.toReversed()) apply(backward, one, { atMs: 0, epoch: 0 });
    expect(stateHash(forward)).toBe(stateHash(backward));
    apply(forward, command("imageRemoved", { name: "ia" }), { atMs: 0, epoch: 0 });
    expect(stateHash(forward)).not.toBe(stateHash(backward));
  });
});
