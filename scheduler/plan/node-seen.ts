/** What a node has reported, put together from full reports and differences. Pure. */
import type { ObservedAllocation, Report, Usage } from "../../proto/gen/godwit/v1/agent.ts";
import type { CheckpointReport } from "../../proto/gen/godwit/v1/checkpoint.ts";
import type { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";

export interface NodeSeen {
  /** What is in each report. */
  readonly report: Pick<Report, "fenceClosed" | "fenceFault" | "fenceMs" | "load">;
  readonly info: NodeInfo | undefined;
  /** By container. */
  readonly allocations: ReadonlyMap<string, ObservedAllocation>;
  /** The node had taken in its present Desired when it reported, so what it does not list is not there. */
  readonly current: boolean;
  /** Digests of the images that are unpacked there. */
  readonly images: ReadonlySet<string>;
  readonly checkpoints: ReadonlyMap<string, CheckpointReport>;
  /** Containers of which the log may know less than what was seen; whoever finds that it does not strikes them off. */
  readonly open: Set<string>;
}

/** What one report has told. */
export interface News {
  /** Of containers that it tells everything of. */
  readonly listed: readonly ObservedAllocation[];
  /** Of containers whose use it tells. */
  readonly used: readonly ObservedAllocation[];
  /** Containers that are not there any more. */
  readonly gone: readonly string[];
}

/** Slots are small numbers; what is beyond is no agent's. */
const MOST_SLOTS = 1_000_000;
const NONE: never[] = [];

/** Which report of which agent it was. */
export interface Place {
  readonly incarnation: string;
  readonly session: number;
  readonly number: number;
}

export class NodePicture implements NodeSeen {
  report: NodeSeen["report"] = { load: undefined, fenceFault: "", fenceClosed: false };
  info: NodeInfo | undefined;
  current = false;
  place: Place = { incarnation: "", session: 0, number: 0 };
  images: ReadonlySet<string> = new Set<string>();
  readonly allocations = new Map<string, ObservedAllocation>();
  readonly checkpoints = new Map<string, CheckpointReport>();
  readonly open = new Set<string>();
  /** Of the agent's session. */
  #slots: (ObservedAllocation | undefined)[] = [];

  /** Whether it can go on from what is known here. */
  continues({ base, incarnation, number, session }: Report): boolean {
    const { place } = this;
    return (
      incarnation === place.incarnation && session === place.session && base <= place.number && base < number
    );
  }
  /** It, or a later one, has been taken in. */
  hasSeen({ incarnation, number, session }: Report): boolean {
    const { place } = this;
    return (
      number !== 0 && incarnation === place.incarnation && session === place.session && number <= place.number
    );
  }
  hasNewerAgent({ incarnation, number, session }: Report): boolean {
    return number !== 0 && incarnation === this.place.incarnation && session < this.place.session;
  }

  /** Takes in one that is full or continues what is known. */
  take(report: Report, current: boolean): News {
    const { fenceClosed, fenceFault, fenceMs, incarnation, load, number, session } = report;
    this.place = { incarnation, session, number };
    this.current = current;
    this.report = { load, fenceFault, fenceClosed, ...(fenceMs === undefined ? {} : { fenceMs }) };
    if (report.info !== undefined) this.info = report.info;
    const isFull = report.base === 0;
    if (isFull || report.imagesChanged) this.images = new Set(report.images);
    if (isFull) this.checkpoints.clear();
    for (const id of report.removedCheckpoints) this.checkpoints.delete(id);
    for (const one of report.checkpoints)
      if (!isFull || !this.checkpoints.has(one.id)) this.checkpoints.set(one.id, one);
    const gone = isFull ? this.#startAnew(report) : report.removedAllocations;
    for (const id of gone) this.#drop(id);
    for (const one of report.allocations) this.#list(one);
    return { listed: report.allocations, used: this.#use(report), gone };
  }

  #startAnew({ allocations }: Report): string[] {
    this.#slots = [];
    const listed = new Set(allocations.map(({ containerId }) => containerId));
    return [...this.allocations.keys()].filter((id) => !listed.has(id));
  }
  #drop(id: string): void {
    const slot = this.allocations.get(id)?.slot ?? 0;
    if (this.#slots[slot]?.containerId === id) this.#slots[slot] = undefined;
    this.allocations.delete(id);
    this.open.add(id);
  }
  #list(observed: ObservedAllocation): void {
    const { blockers, containerId, needs, slot } = observed;
    // There are a great many of them, and most have none.
    if (blockers.length === 0) observed.blockers = NONE;
    if (needs.length === 0) observed.needs = NONE;
    this.allocations.set(containerId, observed);
    this.open.add(containerId);
    if (slot > 0 && slot < MOST_SLOTS) this.#slots[slot] = observed;
  }
  #use({ steady, usages }: Report): ObservedAllocation[] {
    const used: ObservedAllocation[] = [];
    for (const usage of usages) {
      const observed = this.#slots[usage.slot];
      if (observed === undefined) continue;
      apply(observed, usage);
      used.push(observed);
    }
    for (const slot of steady) {
      const observed = this.#slots[slot];
      if (observed !== undefined) used.push(observed);
    }
    return used;
  }
}

const apply = (observed: ObservedAllocation, usage: Usage): void => {
  observed.memoryBytes = usage.memoryBytes;
  observed.cpuUsageUsec = usage.cpuUsageUsec;
  observed.pids = usage.pids;
  observed.readBytes = usage.readBytes;
  observed.writtenBytes = usage.writtenBytes;
  observed.receivedBytes = usage.receivedBytes;
  observed.sentBytes = usage.sentBytes;
  observed.pressure = usage.pressure;
  observed.healthOutput = usage.healthOutput;
};
