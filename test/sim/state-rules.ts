/** What must hold of every state of the cluster, worked out from scratch. */
import { MigrationState, NodeState, type Container, type State } from "../../proto/gen/godwit/v1/log.ts";

interface Sum {
  memoryBytes: number;
  cpuMillis: number;
  pids: number;
}

/** Every node that has promised the container its room: its own, and the other end of its move. */
const holders = ({ migrations }: State, { allocation, migrationId }: Container): string[] => {
  const migration = migrations[migrationId];
  const other =
    migration?.state === MigrationState.RUNNING
      ? migration.to
      : migration?.state === MigrationState.SWITCHED
        ? migration.from
        : undefined;
  return [allocation?.node, other].filter((node) => node !== undefined);
};

const capacityFault = (state: State): string | undefined => {
  const sums = new Map<string, Sum>();
  for (const container of Object.values(state.containers))
    for (const node of holders(state, container)) {
      const sum = sums.get(node) ?? { memoryBytes: 0, cpuMillis: 0, pids: 0 };
      const { memoryBytes = 0, cpuMillis = 0, pids = 0 } = container.spec?.limits ?? {};
      sums.set(node, {
        memoryBytes: sum.memoryBytes + memoryBytes,
        cpuMillis: sum.cpuMillis + cpuMillis,
        pids: sum.pids + pids,
      });
    }
  for (const [name, sum] of sums) {
    const info = state.nodes[name]?.info;
    if (info === undefined) continue;
    if (sum.memoryBytes > info.memoryBytes)
      return `${name} has ${info.memoryBytes} bytes and has promised ${sum.memoryBytes}`;
    if (sum.cpuMillis > info.cpuMillis)
      return `${name} has ${info.cpuMillis} thousandths of a cpu and has promised ${sum.cpuMillis}`;
  }
  return undefined;
};

const migrationFault = (state: State): string | undefined => {
  for (const migration of Object.values(state.migrations)) {
    const { containerId, from, id, to } = migration;
    if (migration.state !== MigrationState.RUNNING && migration.state !== MigrationState.SWITCHED) continue;
    const container = state.containers[containerId];
    if (container === undefined) return `migration ${id} moves a container that is not there`;
    if (container.migrationId !== id) return `${containerId} does not know of its migration ${id}`;
    const owner = migration.state === MigrationState.RUNNING ? from : to;
    if (container.allocation?.node !== owner)
      return `${containerId} belongs to ${container.allocation?.node ?? "nobody"} in the middle of migration ${id}`;
  }
  return undefined;
};

const nameFault = (state: State): string | undefined => {
  const names = new Set<string>();
  const addresses = new Set<string>();
  for (const { address, spec } of Object.values(state.containers)) {
    if (names.has(spec?.name ?? "")) return `two containers are named ${spec?.name}`;
    if (addresses.has(address)) return `two containers have the address ${address}`;
    names.add(spec?.name ?? "");
    addresses.add(address);
  }
  return undefined;
};

const drainFault = (state: State): string | undefined => {
  for (const [name, { drain, schedulable }] of Object.entries(state.nodes))
    if (drain?.outcome === "" && schedulable) return `${name} is being drained and takes containers`;
  return undefined;
};

export const stateFault = (state: State): string | undefined =>
  capacityFault(state) ?? migrationFault(state) ?? nameFault(state) ?? drainFault(state);

/** The node takes nothing new. */
export const isClosed = (state: State, node: string): boolean =>
  state.nodes[node]?.schedulable === false || state.nodes[node]?.state === NodeState.LOST;

const shuns = (one: Container, other: Container): boolean =>
  one.spec?.antiAffinity.some(({ key, value }) => other.spec?.labels[key] === value) === true;

/** What the container must not be beside, or a node that it must not be on. */
export const neighbourFault = (state: State, containerId: string, node: string): string | undefined => {
  const container = state.containers[containerId];
  const there = state.nodes[node];
  if (container === undefined || there === undefined) return undefined;
  for (const { key, value, unequal } of container.spec?.constraints ?? [])
    if ((there.labels[key] === value) === unequal)
      return `${containerId} comes to ${node} against its constraint on ${key}`;
  for (const other of Object.values(state.containers)) {
    const migration = state.migrations[other.migrationId];
    const goesThere = migration?.state === MigrationState.RUNNING && migration.to === node;
    if (other === container || (other.allocation?.node !== node && !goesThere)) continue;
    if (shuns(container, other) || shuns(other, container))
      return `${containerId} comes to ${node} beside ${other.id}, which it must not (anti-affinity)`;
  }
  return undefined;
};
