/**
 * Virtual time. Everything that happens is an event at a moment, and belongs to the process that it happens in: a
 * timer, a message that arrives, an answer of the log. Between two events all promises settle, so that a run is one
 * order of events, which the seed decides.
 *
 * While a world runs, the timers and clocks of this thread are its own (see `install`).
 */
import { EventQueue, type WorldEvent } from "./event-queue.ts";
import { Random } from "./random.ts";
import { Violation } from "./violation.ts";

const real = { setImmediate: globalThis.setImmediate };

/** Many events at one moment are a loop that never ends. */
const MAX_AT_ONCE = 20_000;
const FNV_BASIS = 0x811c9dc5;
const FNV_PRIME = 0x01000193;
const OTHER_PRIME = 0x9e3779b1;
const EPOCH_MS = Date.UTC(2030, 0, 1);
/** As many events are taken in one turn of the real event loop; promises settle after each all the same. */
const EVENTS_A_TURN = 64;

/** Something that can die, stand still and have a wrong clock. */
export class Process {
  readonly name: string;
  alive = true;
  /** What happens to it meanwhile happens when it goes on. */
  paused: WorldEvent[] | undefined;
  /** How far its clock is ahead. */
  skewMs: number;

  constructor(name: string, skewMs: number) {
    this.name = name;
    this.skewMs = skewMs;
  }
}

export class World {
  readonly seed: number;
  readonly random: Random;
  nowMs = 0;
  /** All clocks show the same, and have never jumped. */
  hasTrueClocks = true;
  /** Whose code is running. */
  current: Process | undefined;
  /** Called after each event. */
  afterEach: () => void = () => undefined;
  readonly lines: string[] = [];
  readonly #keepLines: number;
  readonly #queue = new EventQueue();
  readonly #hashes: [number, number] = [FNV_BASIS, FNV_BASIS];
  #violation: Violation | undefined;
  #atOnce = 0;
  events = 0;

  constructor(seed: number, options: { keepLines: number }) {
    this.seed = seed;
    this.random = new Random(seed);
    this.#keepLines = options.keepLines;
  }

  /** What the clock of the process that asks shows. */
  get clockMs(): number {
    return EPOCH_MS + this.nowMs + (this.current?.skewMs ?? 0);
  }

  trace(line: string): void {
    this.#hash(line);
    if (this.#keepLines === 0) return;
    this.lines.push(`${this.nowMs.toFixed(3).padStart(11)} ${line}`);
    if (this.lines.length > this.#keepLines) this.lines.shift();
  }
  /** Two runs are compared by it, and nobody tries to deceive it: quick is enough (FNV-1a, twice). */
  #hash(line: string): void {
    let one = Math.imul(this.#hashes[0] ^ Math.floor(this.nowMs * 1_000), FNV_PRIME);
    let other = this.#hashes[1] ^ line.length;
    for (let at = 0; at < line.length; at += 1) {
      const code = line.charCodeAt(at);
      one = Math.imul(one ^ code, FNV_PRIME);
      other = Math.imul(other ^ code, OTHER_PRIME);
    }
    this.#hashes[0] = one;
    this.#hashes[1] = other;
  }
  traceHash(): string {
    return this.#hashes.map((hash) => (hash >>> 0).toString(16).padStart(8, "0")).join("");
  }

  /** The first one counts. */
  violated(what: string): void {
    if (this.#violation !== undefined) return;
    this.trace(`VIOLATION ${what}`);
    this.#violation = new Violation(what);
  }
  get violation(): Violation | undefined {
    return this.#violation;
  }

  /** @param owner undefined: of no process, such as a kernel or the network */
  after(ms: number, owner: Process | undefined, run: () => void): WorldEvent {
    const event: WorldEvent = { atMs: this.nowMs + Math.max(0, ms), owner, run, cancelled: false, order: 0 };
    this.#queue.push(event);
    return event;
  }

  crash(process: Process): void {
    process.alive = false;
    process.paused = undefined;
  }
  pause(process: Process): void {
    if (process.alive) process.paused ??= [];
  }
  resume(process: Process): void {
    const missed = process.paused ?? [];
    process.paused = undefined;
    for (const event of missed) {
      event.atMs = this.nowMs;
      this.#queue.push(event);
    }
  }

  /** Runs events until the moment, or the first violation. */
  async runUntil(atMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const turn = (): void => {
        let taken = 0;
        const one = (): void => {
          if (taken < 0) return;
          this.#settled();
          const next = this.#violation === undefined ? this.#queue.peek() : undefined;
          if (next === undefined || next.atMs > atMs) {
            taken = -1;
            if (this.#violation === undefined) this.nowMs = Math.max(this.nowMs, atMs);
            resolve();
            return;
          }
          this.#take();
          taken += 1;
          if (taken === EVENTS_A_TURN) {
            taken = -1;
            real.setImmediate(turn);
          }
        };
        for (let at = 0; at < EVENTS_A_TURN; at += 1) real.setImmediate(one);
      };
      turn();
    });
  }

  #take(): void {
    const event = this.#queue.pop();
    if (event === undefined || event.cancelled) return;
    const { owner } = event;
    if (owner !== undefined) {
      if (!owner.alive) return;
      if (owner.paused !== undefined) {
        owner.paused.push(event);
        return;
      }
    }
    this.#atOnce = event.atMs > this.nowMs ? 0 : this.#atOnce + 1;
    if (this.#atOnce > MAX_AT_ONCE) {
      this.violated(`${owner?.name ?? "the network"} does the same thing over and over without end`);
      return;
    }
    this.nowMs = Math.max(this.nowMs, event.atMs);
    this.current = owner;
    this.events += 1;
    try {
      event.run();
    } catch (error) {
      this.thrown(error);
    }
  }

  /** The promises of the last event have settled. */
  #settled(): void {
    this.afterEach();
    this.current = undefined;
  }

  /** What nobody has caught. */
  thrown(error: unknown): void {
    if (error instanceof Violation) this.violated(error.message);
    else
      this.violated(
        `${this.current?.name ?? "the simulation"} threw: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      );
  }
}

let installed: World | undefined;

/** The world that this thread's timers and clocks belong to. */
export const world = (): World => {
  if (installed === undefined) throw new Error("no simulation is running in this thread");
  return installed;
};

class Timer {
  readonly #ms: number;
  readonly #every: boolean;
  readonly #owner: Process | undefined;
  readonly #run: () => void;
  #event: WorldEvent;

  constructor(ms: number, every: boolean, run: () => void) {
    this.#ms = ms;
    this.#every = every;
    this.#run = run;
    this.#owner = world().current;
    this.#event = this.#schedule();
  }
  #schedule(): WorldEvent {
    return world().after(this.#ms, this.#owner, () => {
      if (this.#every) this.#event = this.#schedule();
      this.#run();
    });
  }
  clear(): void {
    this.#event.cancelled = true;
  }
  refresh(): this {
    this.clear();
    this.#event = this.#schedule();
    return this;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
  hasRef(): boolean {
    return true;
  }
  [Symbol.dispose](): void {
    this.clear();
  }
}

type Callback = (...given: unknown[]) => void;

/** From now on this thread's timers, clocks and random numbers are the world's. */
export const install = (one: World): void => {
  installed = one;
  const timer =
    (every: boolean) =>
    (run: Callback, ms = 0, ...given: unknown[]) =>
      new Timer(Math.max(1, ms), every, () => run(...given));
  const clear = (one: unknown): void => {
    if (one instanceof Timer) one.clear();
  };
  const numbers = one.random.fork("numbers");
  Object.assign(globalThis, {
    setTimeout: timer(false),
    setInterval: timer(true),
    setImmediate: (run: Callback, ...given: unknown[]) => new Timer(0, false, () => run(...given)),
    clearTimeout: clear,
    clearInterval: clear,
    clearImmediate: clear,
  });
  Date.now = () => Math.floor(one.clockMs);
  performance.now = () => one.nowMs;
  Math.random = () => numbers.next();
};
