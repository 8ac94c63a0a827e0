import { setTimeout as delay } from "node:timers/promises";

import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import type { DesiredAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import { ContainerSpec, Image, type HealthState } from "../../proto/gen/godwit/v1/spec.ts";
import { readRecord, writeRecord } from "../container/record-store.ts";
import { ContainerRuntime } from "../container/runtime.ts";
import type { Host } from "../host.ts";
import { amended } from "../model/amendment.ts";
import type { ContainerRecord, RecordStatus } from "../model/record.ts";

const LOOK_MS = 100;

/** One container's record and what it describes; whoever takes a step for it works on this. */
export class RecordedContainer {
  readonly id: string;
  readonly host: Host;
  readonly runtime: ContainerRuntime;
  readonly logger: Logger;
  /** Something to report has changed. */
  readonly changed: () => void;
  /** Why this agent itself has ended the container's processes. */
  endedBecause = "";
  #record: ContainerRecord | undefined;
  /** The disk has not taken what is known. */
  #isBehind = false;

  constructor(host: Host, id: string, changed: () => void) {
    this.id = id;
    this.host = host;
    this.changed = changed;
    this.logger = host.logger.child({ container: id });
    this.runtime = new ContainerRuntime(host, id);
    this.#record = readRecord(host.config, id);
  }

  /** Undefined: this host has nothing of the container. */
  get record(): ContainerRecord | undefined {
    return this.#record;
  }

  get status(): RecordStatus | undefined {
    return this.#record?.status;
  }

  /** Begins anew with what is wanted. Persisted with the first status. */
  begin(
    desired: DesiredAllocation,
    past: Pick<ContainerRecord, "restarts" | "recentRestarts" | "health">,
  ): ContainerRecord {
    this.endedBecause = "";
    this.#record = {
      containerId: desired.containerId,
      epoch: desired.epoch,
      spec: desired.spec ?? ContainerSpec.fromPartial({}),
      image: desired.image ?? Image.fromPartial({}),
      address: desired.address,
      mac: desired.mac,
      restartGeneration: desired.restartGeneration,
      ...past,
      status: { kind: "starting" },
    };
    return this.#record;
  }

  /** What is about to be done. Persists before it returns; where the disk does not take it, nothing has changed. */
  setStatus(status: RecordStatus): void {
    if (this.#record === undefined) throw new GodwitError("internal", "a status without a record");
    this.#write({ ...this.#record, status: keepKnown(this.#record.status, status) });
  }

  /** What has become of it, whether the disk takes it now or later. */
  found(status: RecordStatus): void {
    if (this.#record === undefined) throw new GodwitError("internal", "a status without a record");
    this.#record = { ...this.#record, status: keepKnown(this.#record.status, status) };
    this.#persist();
    this.changed();
  }

  setHealth(health: HealthState): void {
    if (this.#record === undefined) throw new GodwitError("internal", "a health without a record");
    this.#record = { ...this.#record, health };
    this.#persist();
    this.changed();
  }

  /** Tries again what the disk has not taken. Cheap, called regularly. */
  catchUp(): void {
    if (this.#isBehind) this.#persist();
  }

  #write(record: ContainerRecord): void {
    writeRecord(this.host.config, record);
    this.#record = record;
    this.#isBehind = false;
    this.changed();
  }

  #persist(): void {
    if (this.#record === undefined) return;
    try {
      writeRecord(this.host.config, this.#record);
      this.#isBehind = false;
    } catch (error) {
      // It is tried each second, and said once.
      if (!this.#isBehind)
        this.logger.error({ err: error }, "what has become of the container cannot be recorded yet");
      this.#isBehind = true;
    }
  }

  /** Resolves when the disk has all that is known of it. */
  async recorded(signal: AbortSignal): Promise<void> {
    while (this.#isBehind) await delay(LOOK_MS, undefined, { signal });
  }

  /** From now on it has run for long enough to have recovered. Persisted with the next status. */
  recover(): void {
    if (this.#record !== undefined) this.#record = { ...this.#record, recentRestarts: 0 };
  }

  /** Takes over what of a changed spec needs no restart. Persists before it returns. */
  amend(wanted: ContainerSpec): void {
    if (this.#record === undefined) throw new GodwitError("internal", "a spec without a record");
    this.#write({ ...this.#record, spec: amended(this.#record.spec, wanted) });
  }

  /** Goes on under a newer epoch as what it is. Persists before it returns. */
  inherit(epoch: number): void {
    if (this.#record === undefined) throw new GodwitError("internal", "an epoch without a record");
    this.#write({ ...this.#record, epoch });
  }

  /** Its files are gone, the record among them. */
  forget(): void {
    this.#record = undefined;
    this.#isBehind = false;
  }

  /** The exit code that the shim has on record for the container's first process. */
  async recordedExit(initPid: number): Promise<number | undefined> {
    const all = await this.host.shim.status();
    const recorded = all.find(({ container }) => container === this.id);
    return recorded?.initPid === initPid ? recorded.exit?.code : undefined;
  }
}

/** What is known of an image is needed until the container runs. */
function keepKnown(before: RecordStatus, status: RecordStatus): RecordStatus {
  if (status.kind !== "restoring" || before.kind !== "restoring") return status;
  const description = status.description ?? before.description;
  const following = status.following ?? before.following;
  return {
    ...status,
    ...(description === undefined ? {} : { description }),
    ...(following === undefined ? {} : { following }),
  };
}
