import * as fc from "fast-check";
import { expect, test } from "vitest";
import { CheckpointState } from "../../proto/gen/godwit/v1/checkpoint.ts";
import { MigrationState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { stateHash } from "../log/replica.ts";
import { command } from "../plan/command.ts";
import { anyCommand, fitting } from "../testing/arbitrary-command.ts";
import { Drive } from "../testing/drive.ts";
import { memoryLimit, MIB, sampleImage } from "../testing/sample.ts";
import { apply } from "./apply.ts";
import { chainOf, isBuiltUpon } from "./checkpoint-chain.ts";
import { emptyCluster, type Cluster } from "./cluster.ts";
import { decodeCluster, decodeFirstFormat } from "./decode.ts";
import { canonicalPieces, firstFormatPieces } from "./hash.ts";
import { portKey } from "./placement-index.ts";

/** Everything in the index, in an order of its own. */
const indexAsText = ({ index }: Cluster): string => {
  const sets = (map: ReadonlyMap<string, ReadonlySet<string>>): string[] =>
    [...map].map(([key, set]) => `${key}:${[...set].toSorted().join()}`).toSorted();
  const counts = (map: ReadonlyMap<string, ReadonlyMap<string | number, string | number>>): string[] =>
    [...map]
      .map(
        ([key, inner]) =>
          `${key}:${[...inner]
            .map((pair) => pair.join())
            .toSorted()
            .join(";")}`,
      )
      .toSorted();
  const use = [...index.use].map(([node, used]) => `${node}:${JSON.stringify(used)}`).toSorted();
  return JSON.stringify({
    idByName: [...index.idByName].map((pair) => pair.join()).toSorted(),
    onNode: sets(index.onNode),
    arriving: sets(index.arriving),
    leaving: sets(index.leaving),
    imageUsers: [...index.imageUsers].map((pair) => pair.join()).toSorted(),
    templates: [...new Set([...index.templates.specs()].map((spec) => JSON.stringify(spec)))].toSorted(),
    ofService: sets(index.ofService),
    use,
    unplaced: [...index.unplaced].toSorted(),
    removing: [...index.removing].toSorted(),
    moving: [...index.moving].toSorted(),
    draining: [...index.draining].toSorted(),
    returning: [...index.returning].toSorted(),
    ended: index.ended,
    keeping: sets(index.keeping),
    checkpointsOf: sets(index.checkpointsOf),
    taking: [...index.taking].toSorted(),
    periodic: [...index.periodic].toSorted(),
    requests: [...index.requests],
    labelled: counts(index.placement.labelled),
    repelling: counts(index.placement.repelling),
    ports: counts(index.placement.ports),
    projects: [...index.placement.projects].map((pair) => JSON.stringify(pair)).toSorted(),
    priorities: [...index.placement.priorities].map((pair) => pair.join()).toSorted(),
    preempted: [...index.placement.preempted].toSorted(),
  });
};
const encoded = (cluster: Cluster): Buffer => Buffer.concat([...canonicalPieces(cluster)]);
const copyOf = (cluster: Cluster): Cluster => decodeCluster(encoded(cluster));

/** Containers of one node, those on their way included, that must not be together. */
const neighbourFaults = ({ index, state }: Pick<Cluster, "index" | "state">): string[] => {
  const faults: string[] = [];
  for (const node of Object.keys(state.nodes)) {
    const ids = [index.onNode, index.arriving, index.leaving].flatMap((map) => [...(map.get(node) ?? [])]);
    const here = ids.flatMap((id) => state.containers[id] ?? []);
    for (const one of here)
      for (const other of here) {
        if (one === other) continue;
        if (one.spec?.antiAffinity.some(({ key, value }) => other.spec?.labels[key] === value))
          faults.push(`${node} has containers that must not be together`);
        const taken = new Set(other.spec?.ports.map(portKey));
        if (one.spec?.ports.some((port) => taken.has(portKey(port))))
          faults.push(`a port of ${node} leads to two containers`);
      }
  }
  return faults;
};

/** What is wrong with a state by itself. */
const faultsOf = (cluster: Cluster): string[] => {
  const { index, state } = cluster;
  const faults: string[] = [];
  const all = Object.values(state.containers);
  if (new Set(all.map((container) => container.address)).size !== all.length)
    faults.push("an address is used twice");
  for (const { migrationId } of all) {
    const now = state.migrations[migrationId]?.state;
    if (migrationId !== "" && now !== MigrationState.RUNNING && now !== MigrationState.SWITCHED)
      faults.push(`a container is in migration ${migrationId}, which is ${now ?? "unknown"}`);
  }
  faults.push(...neighbourFaults(cluster), ...checkpointFaults(cluster));
  for (const [name, { memoryBytes }] of index.use)
    if (state.nodes[name] !== undefined && memoryBytes > 1024 * MIB)
      faults.push(`${name} has promised more than it has`);
  for (const [name, service] of Object.entries(state.services)) {
    const revisions = service.history.map(({ revision }) => revision);
    if (!revisions.includes(service.revision)) faults.push(`${name} has forgotten its present revision`);
    if (service.stableRevision !== 0 && !revisions.includes(service.stableRevision))
      faults.push(`${name} has forgotten the revision that it would go back to`);
    if (Math.max(...revisions) > service.lastRevision) faults.push(`${name} has a revision from nowhere`);
  }
  for (const { service } of all)
    if (service !== "" && state.services[service] === undefined)
      faults.push(`a container is a part of ${service}, which is not there`);
  return faults;
};

/** Checkpoints that lack what they build upon, and such as are kept for nobody. */
const checkpointFaults = (cluster: Cluster): string[] => {
  const faults: string[] = [];
  for (const one of Object.values(cluster.state.checkpoints)) {
    const chain = chainOf(cluster, one.id);
    const isWhole = chain.every(
      ({ containerId, epoch, keepers, state }, at) =>
        containerId === one.containerId &&
        epoch === one.epoch &&
        keepers.toSorted().join() === one.keepers.toSorted().join() &&
        (at === chain.length - 1 || state === CheckpointState.STORED),
    );
    if (chain.length === 0 || !isWhole) faults.push(`checkpoint ${one.id} lacks what it builds upon`);
    if (one.superseded && !isBuiltUpon(cluster, one)) faults.push(`checkpoint ${one.id} is kept for nobody`);
  }
  return faults;
};

class Walk {
  readonly drive = new Drive("n1", "n2", "n3");
  readonly faults: string[] = [];
  applied = 0;
  switched = 0;
  /** Continues from a snapshot of the other. */
  #twin: Cluster | undefined;
  readonly #epochs = new Map<string, number>();

  constructor() {
    for (const [at, name] of ["a", "b", "c"].entries())
      this.drive.run(at + 1, name, `n${at + 1}`, memoryLimit(300));
  }

  snapshot(): void {
    const { cluster } = this.drive;
    this.#twin = copyOf(cluster);
    const first = decodeFirstFormat(Buffer.concat([...firstFormatPieces(cluster)]));
    if (stateHash(first) !== stateHash(cluster) || indexAsText(first) !== indexAsText(cluster))
      this.faults.push("a snapshot of the first format is another state");
  }

  step(one: Command): void {
    const { cluster } = this.drive;
    const before = encoded(cluster);
    const outcome = this.drive.try(one);
    if (outcome === undefined) {
      this.applied += 1;
      if (one.command?.$case === "migrationSwitched") this.switched += 1;
    } else if (!encoded(cluster).equals(before))
      this.faults.push(`${outcome.message}: and yet something changed`);
    if (indexAsText(cluster) !== indexAsText(copyOf(cluster)))
      this.faults.push(`${one.command?.$case} left the index behind`);
    if (this.#twin !== undefined) {
      apply(this.#twin, one, { atMs: this.drive.atMs, epoch: cluster.state.epoch });
      if (stateHash(this.#twin) !== stateHash(cluster))
        this.faults.push(`${one.command?.$case} applies otherwise after a snapshot`);
    }
    for (const { allocation, createdAtMs, id } of Object.values(cluster.state.containers)) {
      const key = `${id} ${createdAtMs}`;
      const epoch = allocation?.epoch ?? 0;
      if (epoch < (this.#epochs.get(key) ?? 0)) this.faults.push(`the epoch of ${id} fell`);
      this.#epochs.set(key, epoch);
    }
    this.faults.push(...faultsOf(cluster));
  }
}

test("a rejection changes nothing, the index follows, a snapshot continues alike, ownership only moves forward", () => {
  let applied = 0;
  let switched = 0;
  fc.assert(
    fc.property(
      fc.array(anyCommand, { minLength: 60, maxLength: 160, size: "max" }),
      fc.nat(159),
      (commands, snapshotAt) => {
        const walk = new Walk();
        for (const [at, raw] of commands.entries()) {
          if (at === snapshotAt) walk.snapshot();
          walk.drive.atMs += at % 3;
          walk.step(at % 4 === 0 ? raw : fitting(walk.drive, raw));
        }
        applied += walk.applied;
        switched += walk.switched;
        expect(walk.faults).toEqual([]);
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
