/** One thread that runs seeds for `main.ts`. */
import { parentPort, workerData } from "node:worker_threads";
import { registerSimulation } from "./hooks.ts";
import { PLANTED } from "./planted-bugs.ts";

interface WorkerOrder {
  readonly bug: string | undefined;
  readonly keepLines: number;
}

const { bug, keepLines } = workerData as WorkerOrder;
// Nobody reads where an error came from in a run without a trace, and thousands are made.
if (keepLines === 0) Error.stackTraceLimit = 0;
registerSimulation(bug === undefined ? undefined : PLANTED.find(({ name }) => name === bug));
const { simulate } = await import("./simulation.ts");
const port = parentPort;
if (port === null) throw new Error("this file runs as a worker thread");
port.on("message", (seed: number) => {
  void simulate(seed, { keepLines }).then((outcome) => port.postMessage(outcome));
});
