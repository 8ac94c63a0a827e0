/** What a scheduler has of the machine that it runs on: clocks, timers and chance. A simulation brings its own. */
import { randomBytes } from "node:crypto";

export interface Machine {
  /** The time of day, in whole milliseconds; may jump. What counts how long something took asks monotonicMs. */
  nowMs(): number;
  /** Milliseconds since some moment; never goes back, but may stand still while the machine sleeps. */
  monotonicMs(): number;
  after(ms: number, run: () => void): Disposable;
  every(ms: number, run: () => void): Disposable;
  /** Once everything that lies in this turn of the event loop has been taken. */
  soon(run: () => void): Disposable;
  /** Lower-case hexadecimal digits, two a byte. */
  randomHex(bytes: number): string;
  /** From 0 up to, but not including, 1. */
  randomFraction(): number;
}

/** The time of day when this process began, and from then on a clock that nobody can set. */
const steadyClock = (): number => performance.timeOrigin + performance.now();

/** Of random bytes that are fetched at a time: a call for each of thousands of ids a second shows. */
const POOL_BYTES = 4_096;

/** Each byte is given out once. */
const randomPool = (): ((bytes: number) => string) => {
  let pool = Buffer.alloc(0);
  return (bytes) => {
    if (bytes > pool.length) pool = randomBytes(Math.max(bytes, POOL_BYTES));
    const taken = pool.toString("hex", 0, bytes);
    pool = pool.subarray(bytes);
    return taken;
  };
};

/** The machine that this process runs on. */
export const thisMachine = (clock: () => number = steadyClock): Machine => ({
  nowMs: () => Math.floor(clock()),
  monotonicMs: () => performance.now(),
  after: (ms, run) => {
    const timer = setTimeout(run, ms);
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
  every: (ms, run) => {
    const timer = setInterval(run, ms);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  },
  soon: (run) => {
    const immediate = setImmediate(run);
    return { [Symbol.dispose]: () => clearImmediate(immediate) };
  },
  randomHex: randomPool(),
  randomFraction: () => randomBytes(4).readUInt32BE() / 2 ** 32,
});

/** 16 digits, as every id that Godwit makes. */
export const idFrom = (machine: Pick<Machine, "randomHex">): string => machine.randomHex(8);

/** Waits, or less if the signal aborts first; never rejects. */
export const pauseOn = async (
  machine: Pick<Machine, "after">,
  ms: number,
  signal: AbortSignal,
): Promise<void> => {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const onAbort = (): void => resolve();
  signal.addEventListener("abort", onAbort, { once: true });
  {
    using _ = machine.after(ms, resolve);
    await promise;
  }
  signal.removeEventListener("abort", onAbort);
};
