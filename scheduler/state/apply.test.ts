import { describe, expect, test } from "vitest";
import { AllocationState, DesiredState, MigrationState, NodeState } from "../../proto/gen/godwit/v1/log.ts";
import { HealthState, MigrationMode, MigrationPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { command } from "../plan/command.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { digestOf, memoryLimit, sampleImage, sampleNode, sampleSpec } from "../testing/sample.ts";
import { apply } from "./apply.ts";
import { emptyCluster } from "./cluster.ts";

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
        { id: idOf(2), spec: sampleSpec("other", { imageDigest: digestOf("a"), ...memoryLimit(1) }) },
        "invalid",
      ],
    ] as const;
    const codes = cases.map(([value]) => drive.try(command("containerCreated", value))?.code);
    expect(codes).toEqual(cases.map(([, code]) => code));
  });

  test("addresses: each its own, none ending in 0 or 255, freed ones last and in order", () => {
    const drive = new Drive();
    drive.cluster.state.nextAddress = 15 * 65_536 + 223 * 256 + 252;
    const addresses = [1, 2, 3].map((number) => drive.create(number, `c${number}`).address);
    expect(addresses).toEqual(["10.95.223.252", "10.95.223.253", "10.95.223.254"]);
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
      "10.95.223.253",
      "10.95.223.252",
    ]);
    const fresh = new Drive();
    fresh.cluster.state.nextAddress = 254;
    expect([1, 2, 3].map((number) => fresh.create(number, `c${number}`))).toMatchObject([
      { address: "10.80.0.254", mac: "02:57:0a:50:00:fe" },
      { address: "10.80.1.1" },
      { address: "10.80.1.2" },
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
      health: HealthState.UNSPECIFIED,
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
      RegExp,
    ][] = [
      ["plain", () => undefined, {}, undefined, /^$/],
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
        (d) => void d.run(2, "b", "n2", { ...memoryLimit(900) }),
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
      drive.run(1, "web", "n1", { ...memoryLimit(512) });
      prepare(drive);
      const outcome = drive.startMove(7, container, to);
      expect({ name, code: outcome?.code, said: message.test(outcome?.message ?? "") }).toEqual({
        name,
        code,
        said: true,
      });
    }
  });

  test("a policy of never stays, unless a forced drain moves it", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1", { migration: MigrationPolicy.NEVER });
    expect(drive.startMove(7, 1, "n2")?.code).toBe("refused");
    const drain = (drainId: string, force: boolean): void =>
      drive.must(command("drainStarted", { node: "n1", drainId, deadlineMs: 0, parallel: 1, force }));
    drain("d1", false);
    expect(drive.startMove(7, 1, "n2", "d1")?.code).toBe("refused");
    drive.must(command("drainEnded", { node: "n1", drainId: "d1", outcome: "cancelled" }));
    drain("d2", true);
    expect(drive.startMove(7, 1, "n2", "d2")).toBeUndefined();
  });

  test("a policy of cold is moved cold, and not live; any other may be moved cold when that is asked for", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1", { migration: MigrationPolicy.COLD });
    drive.run(2, "db", "n1");
    expect(drive.startMove(7, 1, "n2", "", MigrationMode.PRECOPY)?.message).toMatch(/--mode cold/);
    expect(drive.startMove(7, 1, "n2")).toBeUndefined();
    expect(drive.startMove(8, 2, "n2", "", MigrationMode.COLD)).toBeUndefined();
    const { migrations } = drive.cluster.state;
    expect([migrations[idOf(7)]?.mode, migrations[idOf(8)]?.mode]).toEqual([
      MigrationMode.COLD,
      MigrationMode.COLD,
    ]);
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

  test("what a target has given up is its source's again, under an epoch that the target never had", () => {
    const drive = new Drive("n1", "n2");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    const returned = command("migrationReturned", { id: idOf(7), reason: "it cannot be restored" });
    expect(drive.try(returned)?.code).toBe("refused");
    drive.must(command("migrationSwitched", { id: idOf(7) }));
    drive.must(returned);
    expect(drive.container(1)).toMatchObject({
      migrationId: "",
      allocation: { node: "n1", epoch: 3, inheritsEpoch: 1 },
    });
    expect(drive.cluster.state.migrations[idOf(7)]).toMatchObject({ error: "it cannot be restored" });
    expect(drive.try(returned)?.code).toBe("refused");
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

describe("a target that is removed after the switch", () => {
  const switchedToLost = (): Drive => {
    const drive = new Drive("n1", "n2", "n3");
    drive.run(1, "web", "n1");
    drive.startMove(7, 1, "n2");
    drive.must(command("migrationSwitched", { id: idOf(7) }));
    drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "" }));
    return drive;
  };

  test("gives the container back to the source, in an epoch above its own", () => {
    const drive = switchedToLost();
    drive.must(command("nodeRemoved", { node: "n2" }));
    expect(drive.container(1)).toMatchObject({
      allocation: { node: "n1", epoch: 3, inheritsEpoch: 1 },
      migrationId: "",
    });
    expect(drive.cluster.state.migrations[idOf(7)]).toMatchObject({
      state: MigrationState.ABORTED,
      error: "node n2 was removed before it was known to run there",
    });
  });

  test("but not if it is known to have run: its copy would be an older one", () => {
    const drive = switchedToLost();
    drive.observe(1, AllocationState.RUNNING);
    drive.must(command("nodeRemoved", { node: "n2" }));
    expect([...drive.cluster.index.unplaced]).toEqual([idOf(1)]);
  });

  test("where the source is no more either, it is placed anew", () => {
    const drive = switchedToLost();
    drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" }));
    drive.must(command("nodeRemoved", { node: "n1" }));
    drive.must(command("nodeRemoved", { node: "n2" }));
    expect([...drive.cluster.index.unplaced]).toEqual([idOf(1)]);
  });

  test("a source that is removed then leaves it to the target, which still knows what it is to run", () => {
    const drive = switchedToLost();
    drive.must(command("nodeStateChanged", { node: "n1", state: NodeState.LOST, reason: "" }));
    drive.must(command("nodeRemoved", { node: "n1" }));
    expect(drive.container(1).allocation).toMatchObject({ node: "n2", epoch: 2 });
    expect(drive.cluster.state.migrations[idOf(7)]?.state).toBe(MigrationState.SWITCHED);
    drive.must(command("migrationFinished", { id: idOf(7), figures: undefined }));
    expect(drive.container(1)).toMatchObject({ migrationId: "", allocation: { node: "n2", epoch: 2 } });
  });
});

test("a post-copied container whose node is fenced has lost what had not followed, also if that is back at once", () => {
  const drive = new Drive("n1", "n2", "n3");
  drive.run(1, "web", "n1");
  expect(drive.startMove(7, 1, "n2", "", MigrationMode.POSTCOPY)).toBeUndefined();
  drive.must(command("migrationSwitched", { id: idOf(7) }));
  drive.observe(1, AllocationState.RUNNING);
  drive.must(command("nodeFenceSet", { node: "n2", fenceMs: 15_000, fault: "" }));
  drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.LOST, reason: "" }));
  drive.must(command("nodeFenced", { node: "n2" }));
  drive.must(command("nodeStateChanged", { node: "n2", state: NodeState.READY, reason: "" }));
  expect(drive.cluster.state.migrations[idOf(7)]).toMatchObject({
    state: MigrationState.LOST,
    error: "node n2 was lost, and with it memory that had not followed",
  });
  expect(drive.container(1).migrationId).toBe("");
});

describe("stream keys", () => {
  const key = (byte: number): Buffer => Buffer.alloc(32, byte);
  const join = (drive: Drive, streamKey: Buffer, incarnation = "i-n1"): string | undefined =>
    drive.try(command("nodeJoined", { info: sampleNode("n1", { streamKey }), incarnation }))?.message;
  const keyOf = (drive: Drive): Buffer | undefined => drive.cluster.state.nodes["n1"]?.info?.streamKey;

  test("the first that a node shows is kept; another is refused with what to do", () => {
    const drive = new Drive();
    expect(join(drive, key(1))).toBeUndefined();
    const refusal = join(drive, key(0xfb), "another incarnation");
    expect(refusal).toMatch(/another stream key .*"godwit node trust n1 -_v7[\w-]{39}"/);
    expect(join(drive, Buffer.alloc(0))).toMatch(/no stream key/);
    expect(keyOf(drive)).toEqual(key(1));
    expect(join(drive, key(1), "another incarnation")).toBeUndefined();
  });

  test("an operator's word lets another one in, and the old one no more", () => {
    const drive = new Drive();
    join(drive, key(1));
    expect(drive.try(command("nodeKeyTrusted", { node: "n1", key: key(2) }))).toBeUndefined();
    expect(join(drive, key(1))).toMatch(/another stream key/);
    expect(join(drive, key(2))).toBeUndefined();
    expect(drive.try(command("nodeKeyTrusted", { node: "n9", key: key(2) }))?.code).toBe("not-found");
    expect(drive.try(command("nodeKeyTrusted", { node: "n1", key: Buffer.alloc(5) }))?.code).toBe("invalid");
  });

  test("a node of an older version may begin to show one; one of another length is no key", () => {
    const drive = new Drive("n1");
    expect(join(drive, Buffer.alloc(31, 1))).toMatch(/32 bytes/);
    expect(join(drive, key(3))).toBeUndefined();
    expect(keyOf(drive)).toEqual(key(3));
  });

  test("a removed node may come back as another", () => {
    const drive = new Drive();
    join(drive, key(1));
    drive.try(command("nodeRemoved", { node: "n1" }));
    expect(join(drive, key(2))).toBeUndefined();
  });
});
