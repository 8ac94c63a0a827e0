/** Seeds over worker threads. */
import { Worker } from "node:worker_threads";
import type { Outcome } from "./simulation.ts";

/** A seed takes a fraction of a second; one that takes so many seconds of this process never ends. */
const SEED_LIMIT_SECONDS = 120;

export interface PoolOptions {
  readonly threads: number;
  readonly bug?: string;
  readonly keepLines?: number;
  /** Answers false when no more seeds are to be run. */
  readonly onOutcome: (outcome: Outcome) => boolean;
}

const endless = (seed: number): Outcome => ({
  seed,
  violation: `the seed has not ended after ${SEED_LIMIT_SECONDS} s: something goes round and round`,
  traceHash: "",
  events: 0,
  virtualMs: 0,
  entries: 0,
  counts: {},
  lines: [],
});

/** Runs each seed once, until there is no more or nobody wants more. */
export const runSeeds = async (seeds: Iterable<number>, options: PoolOptions): Promise<void> => {
  const queue = seeds[Symbol.iterator]();
  let goesOn = true;
  const one = (worker: Worker, seed: number): Promise<Outcome> =>
    new Promise((resolve, reject) => {
      // Counted, so that the time in which the whole process stands still is not.
      let seconds = 0;
      const timer = setInterval(() => {
        if ((seconds += 1) === SEED_LIMIT_SECONDS) onMessage(endless(seed));
      }, 1_000);
      const end = (): void => {
        clearInterval(timer);
        worker.off("message", onMessage);
        worker.off("error", onError);
      };
      const onMessage = (outcome: Outcome): void => {
        end();
        resolve(outcome);
      };
      const onError = (error: Error): void => {
        end();
        reject(new Error(`seed ${seed}: ${error.message}`, { cause: error }));
      };
      worker.on("message", onMessage);
      worker.on("error", onError);
      worker.postMessage(seed);
    });
  const thread = async (): Promise<void> => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), {
      workerData: { bug: options.bug, keepLines: options.keepLines ?? 0 },
    });
    try {
      while (goesOn) {
        const next = queue.next();
        if (next.done === true) return;
        const outcome = await one(worker, next.value);
        goesOn &&= options.onOutcome(outcome);
        if (outcome.traceHash === "") return;
      }
    } finally {
      await worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: options.threads }, thread));
};
