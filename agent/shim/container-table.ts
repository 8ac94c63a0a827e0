import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { isAbsolute, join } from "node:path";

import { GodwitError } from "../../proto/contract/error.ts";
import { processStat } from "../native/process.ts";
import { ContainerOutput } from "./container-output.ts";
import { ExitRecorder } from "./exit-recorder.ts";
import type {
  AttachAnswer,
  AttachRequest,
  ContainerStatus,
  DetachAnswer,
  ExitEvent,
  PartialLines,
  RecordedExit,
} from "./protocol.ts";

/** Answers of detach that are remembered, for an agent that died before it had read one. */
const REMEMBERED_DETACHES = 1024;

interface Entry {
  readonly container: string;
  readonly dir: string;
  readonly output: ContainerOutput;
  initPid: number;
  /** 0: not known. */
  startTicks: number;
  exit: RecordedExit | undefined;
}

/** What a successor needs to go on with one container. */
export interface HandedOver {
  readonly container: string;
  readonly dir: string;
  readonly initPid: number;
  readonly startTicks: number;
  readonly descriptors: { readonly o: number | undefined; readonly e: number | undefined };
  readonly partial: PartialLines;
}

/** The containers whose output is read and whose exit is to be recorded. */
export class ContainerTable implements Disposable {
  readonly #entries = new Map<string, Entry>();
  readonly #detached = new Map<string, DetachAnswer>();
  readonly #exits: ExitRecorder;
  readonly #publish: (event: ExitEvent) => void;

  constructor(ownChildren: ReadonlySet<number>, publish: (event: ExitEvent) => void) {
    this.#publish = publish;
    this.#exits = new ExitRecorder(ownChildren, (pid, exit) => this.#record(pid, exit));
  }

  reap(): void {
    this.#exits.reap();
  }

  sweep(): void {
    this.#exits.sweep();
  }

  /** Attaching again to the same pipes changes nothing; to others, it ends with the former ones first. */
  attach(request: Omit<AttachRequest, "op">): AttachAnswer {
    const { container, dir } = request;
    if (!isAbsolute(dir))
      throw new GodwitError("invalid", `the log folder of ${container} is no absolute path`);
    if (request.initPid !== 0) checkPid(request.initPid);
    const former = this.#entries.get(container);
    if (former !== undefined && former.dir === dir && former.output.reads(inodes(request))) {
      if (request.initPid > 0) this.#setInit(former, request.initPid, request.startTicks);
      return { offset: former.output.offset };
    }
    if (former !== undefined) {
      former.output.drain();
      this.#drop(former);
    }
    const partial =
      request.partial ?? former?.output.position().partial ?? this.#detached.get(container)?.partial;
    const output = new ContainerOutput(dir, request, partial);
    this.#detached.delete(container);
    const entry: Entry = { container, dir, output, initPid: 0, startTicks: 0, exit: undefined };
    this.#entries.set(container, entry);
    if (request.initPid > 0) this.#setInit(entry, request.initPid, request.startTicks);
    return { offset: output.offset };
  }

  setInit(container: string, initPid: number, startTicks: number | undefined): void {
    checkPid(initPid);
    this.#setInit(this.#find(container), initPid, startTicks);
  }

  /** Takes what can be read now and lets go of the container. Asked again, it answers the same again. */
  detach(container: string): DetachAnswer {
    const entry = this.#entries.get(container);
    if (entry === undefined) {
      const before = this.#detached.get(container);
      if (before !== undefined) return before;
      throw notAttached(container);
    }
    entry.output.drain();
    const answer = entry.output.position();
    this.#drop(entry);
    this.#detached.set(container, answer);
    if (this.#detached.size > REMEMBERED_DETACHES) {
      for (const oldest of this.#detached.keys()) {
        this.#detached.delete(oldest);
        break;
      }
    }
    return answer;
  }

  status(): ContainerStatus[] {
    return [...this.#entries.values()].map(({ container, initPid, exit }) => ({
      container,
      initPid,
      ...(exit === undefined ? {} : { exit }),
    }));
  }

  /** What a successor needs, for every container whose output is still open. */
  handOver(): HandedOver[] {
    return [...this.#entries.values()].map(({ container, dir, initPid, startTicks, output }) => {
      output.drain();
      return {
        container,
        dir,
        initPid,
        startTicks,
        descriptors: output.descriptors(),
        partial: output.position().partial,
      };
    });
  }

  [Symbol.dispose](): void {
    for (const entry of this.#entries.values()) entry.output[Symbol.dispose]();
    this.#entries.clear();
  }

  #find(container: string): Entry {
    const entry = this.#entries.get(container);
    if (entry === undefined) throw notAttached(container);
    return entry;
  }

  #setInit(entry: Entry, initPid: number, startTicks: number | undefined): void {
    const same = entry.initPid === initPid && (startTicks === undefined || entry.startTicks === startTicks);
    if (same && (entry.exit !== undefined || entry.startTicks !== 0)) return;
    if (entry.initPid !== 0) this.#exits.forget(entry.initPid);
    entry.exit = undefined;
    entry.initPid = initPid;
    entry.startTicks = startTicks ?? 0;
    const recorded = readExit(entry.dir);
    const isOfThis =
      startTicks === undefined ? processStat(initPid) === undefined : recorded?.startTicks === startTicks;
    if (recorded?.initPid === initPid && isOfThis) {
      const { code, signal, atMs } = recorded;
      entry.startTicks = recorded.startTicks;
      entry.exit = { code, signal, atMs };
      this.#publish({ event: "exit", container: entry.container, initPid, ...entry.exit });
      return;
    }
    rmSync(exitPath(entry.dir), { force: true }); // of a former life
    entry.startTicks = this.#exits.watch(initPid, startTicks);
  }

  #drop(entry: Entry): void {
    if (entry.initPid !== 0) this.#exits.forget(entry.initPid);
    entry.output[Symbol.dispose]();
    this.#entries.delete(entry.container);
  }

  #record(pid: number, exit: RecordedExit): void {
    for (const entry of this.#entries.values()) {
      if (entry.initPid !== pid || entry.exit !== undefined) continue;
      // Its last words come before the news of its death.
      entry.output.drain();
      entry.exit = exit;
      const path = exitPath(entry.dir);
      const record: ExitRecord = { initPid: pid, startTicks: entry.startTicks, ...exit };
      try {
        writeFileSync(`${path}.new`, `${JSON.stringify(record)}\n`, { mode: 0o600 });
        renameSync(`${path}.new`, path);
      } catch (error) {
        // A full disk: status and the event still tell it, for as long as this process lives.
        process.stderr.write(`shim: ${path} cannot be written: ${(error as Error).message}\n`);
      }
      this.#publish({ event: "exit", container: entry.container, initPid: pid, ...exit });
    }
  }
}

/** exit.json in the folder of a container's log. */
export interface ExitRecord extends RecordedExit {
  readonly initPid: number;
  readonly startTicks: number;
}
const exitPath = (dir: string): string => join(dir, "exit.json");

/** What was recorded of the last exit of the container with this log folder. */
export function readExit(dir: string): ExitRecord | undefined {
  try {
    return JSON.parse(readFileSync(exitPath(dir), "utf8")) as ExitRecord;
  } catch {
    return undefined; // none; it is written by a rename
  }
}

function checkPid(pid: number): void {
  if (!Number.isInteger(pid) || pid < 2) throw new GodwitError("invalid", `${pid} is no container's pid`);
}

function notAttached(container: string): GodwitError {
  return new GodwitError("not-found", `no output of container ${container} is attached`);
}

function inodes(paths: { stdout: string; stderr: string }): (number | undefined)[] {
  return [paths.stdout, paths.stderr].map((path) =>
    path === "" ? undefined : statSync(path, { throwIfNoEntry: false })?.ino,
  );
}
