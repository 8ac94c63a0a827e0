/** In the place of agent/container/record-store.ts: the simulated host's disk. */
import type { AgentConfig } from "../../../agent/config.ts";
import { decodeRecord, encodeRecord, type ContainerRecord } from "../../../agent/model/record.ts";
import { context, machineOf } from "../context.ts";

export function writeRecord(config: AgentConfig, record: ContainerRecord): void {
  const machine = machineOf({ config });
  const { conditions, random } = context();
  machine.writes();
  if (random.chance(conditions.troubles.failedWrite)) throw new Error("EIO: i/o error, write");
  machine.records.set(record.containerId, encodeRecord(record));
}

export function readRecord(config: AgentConfig, containerId: string): ContainerRecord | undefined {
  const text = machineOf({ config }).records.get(containerId);
  return text === undefined ? undefined : decodeRecord(text);
}

export function listContainers(config: AgentConfig): string[] {
  return [...machineOf({ config }).records.keys()];
}

// As what it stands for.
({ writeRecord, readRecord, listContainers }) satisfies Pick<
  typeof import("../../../agent/container/record-store.ts"),
  "writeRecord" | "readRecord" | "listContainers"
>;
