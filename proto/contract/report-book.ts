/**
 * An agent's reports: full ones, and differences to the last one that a leader has acknowledged. What containers use
 * changes all the time, so each is told in turn, all of a small host's in each report. Pure: time is an argument.
 */
import { ObservedAllocation, Report, Usage } from "../gen/godwit/v1/agent.ts";
import { CheckpointReport } from "../gen/godwit/v1/checkpoint.ts";
import { NodeInfo } from "../gen/godwit/v1/log.ts";
import { ChangeBook, changedSince, settleAll } from "./change-book.ts";

/** Containers whose usage is told each second, and at most in one report. */
const USAGES_PER_SECOND = 20;
/** Of one container. */
const USAGE_EVERY_MS = 900;

const USES = {
  memoryBytes: 0,
  cpuUsageUsec: 0,
  pids: 0,
  readBytes: undefined,
  writtenBytes: undefined,
  receivedBytes: undefined,
  sentBytes: undefined,
  pressure: undefined,
  healthOutput: "",
} as const;

/** What a container uses, and what its last check has said: what changes without anything having happened. */
export type Used = Omit<Usage, "slot">;
/** A container apart from that. */
export type Seen = Omit<ObservedAllocation, keyof typeof USES | "slot">;

/** A sight that is the very one of before is one in which nothing has changed. */
export interface Sight {
  readonly seen: Seen;
  /** By any clock, when it is started again by itself; 0: it is not about to be. What `restartInMs` counts down to. */
  readonly restartAtMs: number;
  /** Looks only when it is to be told. */
  readonly use: () => Used;
}

export interface View {
  readonly info: NodeInfo;
  readonly images: readonly string[];
  /** No two of one container. */
  readonly sights: readonly Sight[];
  /** No two of one id. */
  readonly checkpoints: readonly CheckpointReport[];
  /** By a clock that only goes forward. */
  readonly nowMs: number;
}

/** The parts of a report that are not told anew each time. */
export type Told = Pick<
  Report,
  | "session"
  | "number"
  | "base"
  | "info"
  | "images"
  | "imagesChanged"
  | "allocations"
  | "removedAllocations"
  | "checkpoints"
  | "removedCheckpoints"
  | "usages"
  | "steady"
>;

/** What is not known to have been told by a certain report, or after it. */
type Changes = Readonly<Record<"node" | "allocations" | "checkpoints" | "usages", readonly string[]>>;

const printOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");
const printOfSight = ({ restartAtMs, seen }: Sight): string =>
  printOf(ObservedAllocation.encode({ ...seen, ...USES, restartInMs: 0, slot: 0 }).finish()) + restartAtMs;
const INFO = "info";
const IMAGES = "images";

export class ReportBook {
  readonly #session: number;
  #number = 0;
  #base: number | undefined;
  readonly #books = {
    node: new ChangeBook(),
    allocations: new ChangeBook(),
    checkpoints: new ChangeBook(),
    usages: new ChangeBook(),
  };
  /** As they were told last. */
  readonly #sights = new Map<string, Sight>();
  readonly #slots = new Map<string, number>();
  readonly #freeSlots: number[] = [];
  /** By container, when its usage was last told, longest ago first. */
  readonly #toldAtMs = new Map<string, number>();
  #allowance = USAGES_PER_SECOND;
  #atMs: number | undefined;

  /** `session` is higher than that of every earlier agent of this start of the host. */
  constructor(session: number) {
    this.#session = session;
  }

  /** The leader holds all that was so at that report. */
  acknowledge(number: number): void {
    if (number <= (this.#base ?? 0) || number > this.#number) return;
    this.#base = number;
    settleAll(this.#books, number);
  }
  /** The next report is a full one. */
  startAnew(): void {
    this.#base = undefined;
  }

  next(view: View): Told {
    this.#number += 1;
    this.#note(view);
    const changed = this.#base === undefined ? undefined : changedSince(this.#books, this.#base);
    return changed === undefined ? this.#full(view) : this.#difference(view, this.#base ?? 0, changed);
  }

  #note({ checkpoints, images, info, sights }: View): void {
    const at = this.#number;
    this.#books.node.put(INFO, printOf(NodeInfo.encode(info).finish()), at);
    this.#books.node.put(IMAGES, images.join(), at);
    for (const sight of sights) {
      const id = sight.seen.containerId;
      if (this.#sights.get(id) === sight) continue;
      this.#sights.set(id, sight);
      this.#books.allocations.put(id, printOfSight(sight), at);
    }
    if (this.#sights.size > sights.length) {
      const present = new Set(sights.map(({ seen }) => seen.containerId));
      for (const id of [...this.#sights.keys()]) if (!present.has(id)) this.#forget(id);
    }
    for (const one of checkpoints)
      this.#books.checkpoints.put(one.id, printOf(CheckpointReport.encode(one).finish()), at);
    const kept = new Set(checkpoints.map(({ id }) => id));
    for (const id of [...this.#books.checkpoints.keys()])
      if (!kept.has(id)) this.#books.checkpoints.remove(id, at);
  }
  #forget(id: string): void {
    this.#sights.delete(id);
    this.#books.allocations.remove(id, this.#number);
    this.#books.usages.remove(id, this.#number);
    this.#toldAtMs.delete(id);
    const slot = this.#slots.get(id);
    this.#slots.delete(id);
    if (slot !== undefined) this.#freeSlots.push(slot);
  }

  #full(view: View): Told {
    const { checkpoints, images, info, nowMs, sights } = view;
    this.#advance(nowMs);
    return {
      session: this.#session,
      number: this.#number,
      base: 0,
      info,
      images: [...images],
      imagesChanged: true,
      allocations: sights.map((sight) => this.#observed(sight, nowMs)),
      removedAllocations: [],
      checkpoints: [...checkpoints],
      removedCheckpoints: [],
      usages: [],
      steady: [],
    };
  }

  #difference(view: View, base: number, changes: Changes): Told {
    const { images, info, nowMs } = view;
    const sights = this.#sights;
    const checkpoints = new Map(view.checkpoints.map((one) => [one.id, one]));
    const imagesChanged = changes.node.includes(IMAGES);
    const whole = new Set(changes.allocations);
    return {
      session: this.#session,
      number: this.#number,
      base,
      info: changes.node.includes(INFO) ? info : undefined,
      images: imagesChanged ? [...images] : [],
      imagesChanged,
      allocations: changes.allocations
        .flatMap((id) => sights.get(id) ?? [])
        .map((sight) => this.#observed(sight, nowMs)),
      removedAllocations: changes.allocations.filter((id) => !sights.has(id)),
      checkpoints: changes.checkpoints.flatMap((id) => checkpoints.get(id) ?? []),
      removedCheckpoints: changes.checkpoints.filter((id) => !checkpoints.has(id)),
      ...this.#uses(whole, changes.usages, nowMs),
    };
  }

  /** What was told last and may have been lost, and those whose turn it is. */
  #uses(
    whole: ReadonlySet<string>,
    unconfirmed: readonly string[],
    nowMs: number,
  ): Pick<Told, "steady" | "usages"> {
    const told = new Set([...unconfirmed, ...this.#due(nowMs)].filter((id) => !whole.has(id)));
    const again = new Set(unconfirmed);
    const usages: Usage[] = [];
    const steady: number[] = [];
    for (const id of told) {
      const sight = this.#sights.get(id);
      if (sight === undefined) continue;
      const used = this.#use(sight, nowMs);
      const slot = this.#slotOf(id);
      if (used.isNew || again.has(id)) usages.push({ slot, ...used.used });
      else steady.push(slot);
    }
    return { usages, steady };
  }

  #due(nowMs: number): string[] {
    this.#advance(nowMs);
    const due: string[] = [];
    for (const [id, atMs] of this.#toldAtMs) {
      if (due.length >= Math.floor(this.#allowance) || nowMs - atMs < USAGE_EVERY_MS) break;
      due.push(id);
    }
    this.#allowance -= due.length;
    return due;
  }
  #advance(nowMs: number): void {
    const sinceMs = Math.max(0, nowMs - (this.#atMs ?? nowMs));
    this.#atMs = nowMs;
    this.#allowance = Math.min(USAGES_PER_SECOND, this.#allowance + (sinceMs / 1_000) * USAGES_PER_SECOND);
  }

  #observed(sight: Sight, nowMs: number): ObservedAllocation {
    const { used } = this.#use(sight, nowMs);
    return { ...sight.seen, ...USES, ...used, slot: this.#slotOf(sight.seen.containerId) };
  }
  #use({ seen, use }: Sight, nowMs: number): { readonly used: Used; readonly isNew: boolean } {
    const used = use();
    const id = seen.containerId;
    this.#toldAtMs.delete(id);
    this.#toldAtMs.set(id, nowMs);
    const isNew = this.#books.usages.put(
      id,
      printOf(Usage.encode({ slot: 0, ...used }).finish()),
      this.#number,
    );
    return { used, isNew };
  }

  /** Those of containers that are gone are given out again, also within one report: what is gone is read first. */
  #slotOf(id: string): number {
    let slot = this.#slots.get(id);
    if (slot === undefined) this.#slots.set(id, (slot = this.#freeSlots.pop() ?? this.#slots.size + 1));
    return slot;
  }
}
