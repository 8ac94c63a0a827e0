import { isAlive, peekDeadChild, processStat, reapChild } from "../native/process.ts";
import { type RecordedExit, UNKNOWN_EXIT_CODE } from "./protocol.ts";

/** Reaped processes that are remembered: an init may die before anyone has said that it is one. */
const REMEMBERED = 4096;

interface Reaped {
  readonly startTicks: number;
  readonly exit: RecordedExit;
}
interface Watched {
  readonly pid: number;
  readonly startTicks: number;
}

/**
 * Reaps what is orphaned below this process and tells how watched processes ended. libuv's own children are
 * left to libuv: a dead one is waited for to be taken by it, and only looked at.
 */
export class ExitRecorder {
  readonly #ownChildren: ReadonlySet<number>;
  readonly #onExit: (pid: number, exit: RecordedExit) => void;
  readonly #reaped = new Map<number, Reaped>();
  readonly #watched = new Map<number, Watched>();
  #again = false;

  /** @param ownChildren pids that libuv reaps, kept up to date by their owner */
  constructor(ownChildren: ReadonlySet<number>, onExit: (pid: number, exit: RecordedExit) => void) {
    this.#ownChildren = ownChildren;
    this.#onExit = onExit;
  }

  /** Reaps all that can be reaped. To be called at every SIGCHLD (which may stand for many) and at the start. */
  reap(): void {
    for (;;) {
      const dead = peekDeadChild();
      if (dead === undefined) return;
      if (this.#ownChildren.has(dead.pid)) {
        // It hides those behind it until libuv has taken it, in this turn of the loop or the next.
        if (!this.#again) {
          this.#again = true;
          setImmediate(() => {
            this.#again = false;
            this.reap();
          });
        }
        return;
      }
      const startTicks = processStat(dead.pid)?.startTicks ?? 0;
      reapChild(dead.pid);
      const exit: RecordedExit = { code: dead.code, signal: dead.signal, atMs: Date.now() };
      this.#remember(dead.pid, { startTicks, exit });
      if (this.#watched.get(dead.pid)?.startTicks === startTicks) this.#tell(dead.pid, exit);
    }
  }

  /**
   * Tells the exit of this process, at once if it has died already.
   * @param startTicks undefined when the caller does not know them: whoever has the pid is meant
   * @returns the start ticks of what is watched; 0 when it is gone
   */
  watch(pid: number, startTicks: number | undefined): number {
    this.reap();
    const stat = processStat(pid);
    const reaped = this.#reaped.get(pid);
    const alive = stat !== undefined && (startTicks === undefined || stat.startTicks === startTicks);
    if (alive) {
      this.#watched.set(pid, { pid, startTicks: stat.startTicks });
      return stat.startTicks;
    }
    const known = reaped !== undefined && (startTicks === undefined || reaped.startTicks === startTicks);
    this.#tell(pid, known ? reaped.exit : { code: UNKNOWN_EXIT_CODE, signal: 0, atMs: Date.now() });
    return known ? reaped.startTicks : (startTicks ?? 0);
  }

  forget(pid: number): void {
    this.#watched.delete(pid);
  }

  /**
   * Finds out about watched processes that died as somebody else's children: those that this process inherited
   * from a predecessor by name only, and inits whose runc was still there.
   */
  sweep(): void {
    if (this.#watched.size === 0) return;
    this.reap();
    for (const { pid, startTicks } of this.#watched.values()) {
      if (isAlive(pid, startTicks)) continue;
      const stat = processStat(pid);
      const seen = stat?.startTicks === startTicks;
      if (seen && stat.parentPid === process.pid) continue; // reap takes it, as soon as libuv lets it
      this.#tell(pid, { ...(seen ? stat.exit : { code: UNKNOWN_EXIT_CODE, signal: 0 }), atMs: Date.now() });
    }
  }

  #tell(pid: number, exit: RecordedExit): void {
    this.#watched.delete(pid);
    this.#onExit(pid, exit);
  }

  #remember(pid: number, reaped: Reaped): void {
    this.#reaped.delete(pid); // to the end of the map's order
    this.#reaped.set(pid, reaped);
    if (this.#reaped.size <= REMEMBERED) return;
    for (const oldest of this.#reaped.keys()) {
      this.#reaped.delete(oldest);
      break;
    }
  }
}
