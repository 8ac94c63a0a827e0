/** A simulated host: what is on its disk and what is in its kernel. */
import type { ContainerRecord, InitProcess } from "../../agent/model/record.ts";
import type { Process } from "./world.ts";

/** One container's processes on one host. */
export interface Copy {
  readonly containerId: string;
  readonly init: InitProcess;
  /** One number for one life of a container's memory, on whatever host it is; 0: it has not begun. */
  life: number;
  /** held: built or restored, with not one instruction run. */
  state: "running" | "frozen" | "held";
  /** Its CRIU dies with the agent, and what it has built with it. */
  readonly byCriu: boolean;
  /** It was stopped before its first instruction, at the end of its host's lease, and goes on only with its agent's word. */
  isHeldBack: boolean;
  /** What its processes have used of the CPU up to the moment, in µs. */
  usedUsec: number;
  usedUntilMs: number;
  /** After a post-copy: pieces of its memory that are still at its source. */
  lacking: number;
  /** It was about to run, and its host or it itself stood still: what happens the moment that neither does any more. */
  onOpen?: (() => void) | undefined;
  /** Told that its CRIU was killed, and with it what it has built. */
  onCriuDeath?: () => void;
}

/** What was received of a container on its way here. */
export interface ReceivedImage {
  readonly migrationId: string;
  readonly life: number;
  /** Of a post-copy: pieces that it is without. */
  readonly lacking: number;
  /** CRIU has been answered that it may let it run: it will, whatever becomes of the agent. */
  resumes: boolean;
  /** Whether this host can make anything of it again; undefined: nobody has tried. */
  isSpoilt?: boolean;
}

export class Machine {
  readonly name: string;
  readonly memoryBytes: number;
  readonly cpuMillis: number;
  incarnation: string;
  isUp = true;
  /** Nothing runs here, whatever its own state is: the lease has ended. */
  isFenced = false;
  /** When the fence closes; Infinity: never. It outlives the agent. */
  fencedFromMs = Infinity;
  /** Told when the fence has closed, while an agent listens. */
  onFenced: (() => void) | undefined;
  boots = 1;
  /** Files. */
  readonly records = new Map<string, string>();
  /** By container: which line of files its writable layer is. */
  readonly files = new Map<string, number>();
  readonly copies = new Map<string, Copy>();
  readonly images = new Map<string, ReceivedImage>();
  /** Ids of checkpoints of other hosts' containers. */
  readonly kept = new Set<string>();
  /** Ids of checkpoints that were begun here and are still ordered. */
  readonly spool = new Set<string>();
  /** Nothing can be written any more; what is there can be read, and removed. */
  isDiskFull = false;
  /** When it last came back with another disk. */
  diskSinceMs = 0;
  /** Containers, with their epochs, that a checkpoint could not be made into here. */
  readonly failedRestores = new Set<string>();
  /** What the shim has on record. */
  readonly exits = new Map<string, { readonly initPid: number; readonly code: number }>();
  /** Told of the end of a first process, while an agent listens. */
  onExit: ((containerId: string, initPid: number, code: number) => void) | undefined;
  agent: Process | undefined;
  #nextPid = 100;

  constructor(name: string, incarnation: string, size: { memoryBytes: number; cpuMillis: number }) {
    this.name = name;
    this.incarnation = incarnation;
    this.memoryBytes = size.memoryBytes;
    this.cpuMillis = size.cpuMillis;
  }
  /** Throws as a write does when there is no room for it. */
  writes(): void {
    if (!this.isDiskFull) return;
    throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  }
  /** Another one after each restart of the machine. */
  get bootedAs(): string {
    return `${this.incarnation}-${this.boots}`;
  }
  newInit(): InitProcess {
    return { pid: (this.#nextPid += 1), startTicks: this.#nextPid };
  }
  record(containerId: string): Pick<ContainerRecord, "epoch" | "restartGeneration" | "status"> | undefined {
    const text = this.records.get(containerId);
    return text === undefined ? undefined : (JSON.parse(text) as ContainerRecord);
  }
}
