/** `maintenance run`: a list of nodes, one after the other, each emptied, worked on and given back what it had. */
import { spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";

import type { DrainPlanItem, DrainStatus, NodeSummary } from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith, isCallFailure, isUnreachable } from "../failure.ts";
import { printJson, table, type OutputFormat } from "../output.ts";
import { formatDuration } from "../quantity.ts";
import { ReadyWatch } from "../ready-watch.ts";
import { connectApi, say } from "../session.ts";
import { drainDocument, PLAN_COLUMNS } from "../shape/drain.ts";
import { drainOf, followMoves, returnOf, type Followed, type MovingMany } from "./drain.ts";

export interface MaintenanceOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  /** "n1,n2" or "all". */
  readonly nodes: string;
  readonly argv: readonly string[];
  readonly deadlineMs: number;
  readonly parallel: number;
  readonly perLink: number;
  readonly force: boolean;
  readonly waitReadyMs: number;
  readonly reboots: boolean;
  readonly dryRun: boolean;
}

type Stage = "evacuating" | "running the command" | "waiting until it is ready" | "returning";

interface NodeReport {
  readonly node: string;
  state: "done" | "failed" | "not begun" | "planned";
  stage?: Stage;
  evacuated?: Record<string, unknown>;
  command?: { readonly exitCode: number; readonly ms: number };
  returned?: Record<string, unknown>;
  error?: string;
}

const LOOK_MS = 1_000;
/** A command that was told to end is waited for so long. */
const COMMAND_GRACE_MS = 10_000;

export async function runMaintenance(options: MaintenanceOptions): Promise<void> {
  using api = await connectApi(options.api);
  const names = chosen((await api.call("listNodes", {})).nodes, options.nodes);
  const reports: NodeReport[] = names.map((node) => ({ node, state: "not begun" }));
  const stopping = new AbortController();
  const stop = (): void => stopping.abort();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, stop);
  try {
    for (const report of reports) {
      const { node } = report;
      try {
        await maintain(api, report, options, stopping.signal);
      } catch (error) {
        report.state = "failed";
        report.error = stopping.signal.aborted ? "interrupted" : wordsOf(error);
        throw new ExitWith(
          stopping.signal.aborted ? EXIT.interrupted : EXIT.failed,
          `${node}: ${report.error} while ${report.stage ?? "beginning"}; ${howToGoOn(report, names.slice(names.indexOf(node) + 1))}`,
        );
      }
    }
    if (options.output !== "json" && !options.dryRun) say(`maintenance of ${names.join(", ")} is done`);
  } finally {
    for (const name of ["SIGINT", "SIGTERM"] as const) process.off(name, stop);
    if (options.output === "json") printJson(reports);
  }
}

function chosen(nodes: readonly NodeSummary[], wanted: string): string[] {
  const asked =
    wanted === "all" ? nodes.map(({ name }) => name) : wanted.split(",").map((name) => name.trim());
  const names = asked.filter((name) => name !== "");
  if (names.length === 0) throw new GodwitError("invalid", "--nodes names no node");
  if (new Set(names).size < names.length)
    throw new GodwitError("invalid", `--nodes names a node twice: ${wanted}`);
  for (const name of names) {
    const node = nodes.find((one) => one.name === name);
    if (node === undefined)
      throw new ExitWith(EXIT.failed, `there is no node ${name}: 'godwit node ls' lists them`);
    // Before anything is done to the first of them.
    if (node.state === "lost" || node.state === "draining")
      throw new ExitWith(EXIT.refused, `node ${name} is ${node.state}: nothing was begun`);
  }
  return names;
}

async function maintain(
  api: ApiClient,
  report: NodeReport,
  options: MaintenanceOptions,
  signal: AbortSignal,
): Promise<void> {
  const { argv, deadlineMs, dryRun, force, output, parallel, perLink } = options;
  const { node } = report;
  const tell = (text: string): void => {
    if (output !== "json") say(`${node}: ${text}`);
  };
  report.stage = "evacuating";
  const evacuation = drainOf(node, "evacuate", { deadlineMs, dryRun, force, parallel, perLink });
  const evacuated = await moves(api, evacuation, output, signal);
  report.evacuated = drainDocument(evacuated.status, evacuated.plan);
  if (dryRun) {
    report.state = "planned";
    if (evacuated.plan.length === 0) tell("is empty");
    return;
  }
  mustBe(evacuated.status, "drained", "it could not be emptied");
  tell(`evacuated, ${evacuated.status.moved.length} moved in ${formatDuration(evacuated.status.totalMs)}`);

  report.stage = "running the command";
  const beganAt = performance.now();
  const exitCode = await runCommand(argv, node, output, signal);
  report.command = { exitCode, ms: Math.round(performance.now() - beganAt) };
  signal.throwIfAborted();
  if (exitCode !== 0) throw new ExitWith(EXIT.failed, `the command ended with exit code ${exitCode}`);
  tell(`the command is done after ${formatDuration(report.command.ms)}`);

  report.stage = "waiting until it is ready";
  await ready(api, node, options, signal);

  report.stage = "returning";
  const returned = await moves(api, returnOf(node, { dryRun, parallel, perLink }), output, signal);
  report.returned = drainDocument(returned.status, returned.plan);
  mustBe(returned.status, "returned", "not everything came back");
  tell(
    `in service again, ${returned.status.moved.length} came back in ${formatDuration(returned.status.totalMs)}`,
  );
  for (const { container, reason } of returned.status.remaining) tell(`${container} ${reason}`);
  report.state = "done";
}

function mustBe(status: DrainStatus, wanted: string, otherwise: string): void {
  if (status.state === wanted) return;
  const why = status.state === "cancelled" ? "somebody cancelled that" : status.error;
  throw new ExitWith(EXIT.failed, `${otherwise}: ${why}`);
}

async function moves(
  api: ApiClient,
  moving: MovingMany,
  output: OutputFormat,
  signal: AbortSignal,
): Promise<Followed> {
  const showPlan = async (plan: readonly DrainPlanItem[]): Promise<void> => {
    if (output !== "json" && plan.length > 0)
      process.stdout.write(await table(plan, PLAN_COLUMNS, output === "wide"));
  };
  return await followMoves(api, moving, { signal, showPlan });
}

/** On this machine, with this terminal. Answers its exit code; 128 and the signal's number for one that was killed. */
async function runCommand(
  argv: readonly string[],
  node: string,
  output: OutputFormat,
  signal: AbortSignal,
): Promise<number> {
  const [program = "", ...args] = argv.map((word) => word.replaceAll("{node}", node));
  // Standard output belongs to the JSON document where there is one.
  const child = spawn(program, args, {
    env: { ...process.env, GODWIT_NODE: node },
    stdio: ["inherit", output === "json" ? 2 : "inherit", "inherit"],
  });
  // A terminal's Ctrl-C reaches it too; whoever ends this command alone means both.
  const end = (): void => {
    child.kill("SIGTERM");
    setTimeout(() => child.kill("SIGKILL"), COMMAND_GRACE_MS).unref();
  };
  signal.addEventListener("abort", end, { once: true });
  try {
    return await new Promise<number>((resolve, reject) => {
      child.once("error", (error) =>
        reject(new ExitWith(EXIT.failed, `the command could not be started: ${error.message}`)),
      );
      child.once("exit", (code, name) => resolve(code ?? (name === null ? 1 : 128)));
    });
  } finally {
    signal.removeEventListener("abort", end);
  }
}

/** A node that is restarted by its command may be away meanwhile, and so may an API that runs on it. */
async function ready(
  api: ApiClient,
  node: string,
  { reboots, waitReadyMs }: MaintenanceOptions,
  signal: AbortSignal,
): Promise<void> {
  const watch = new ReadyWatch(reboots);
  const deadlineMs = performance.now() + waitReadyMs;
  let last = "";
  for (;;) {
    signal.throwIfAborted();
    try {
      const { nodes } = await api.call("listNodes", {});
      const summary = nodes.find(({ name }) => name === node);
      if (summary === undefined) throw new ExitWith(EXIT.failed, "somebody has removed it from the cluster");
      if (watch.see({ lost: summary.state === "lost", leaseMs: summary.leaseMs, atMs: performance.now() }))
        return;
      last = watch.words;
    } catch (error) {
      if (!isUnreachable(error)) throw error;
      last = "the API cannot be reached";
    }
    if (performance.now() > deadlineMs)
      throw new ExitWith(EXIT.failed, `it was not ready within ${formatDuration(waitReadyMs)} (${last})`);
    await delay(LOOK_MS, undefined, { signal });
  }
}

const wordsOf = (error: unknown): string =>
  isCallFailure(error) ? error.details : error instanceof Error ? error.message : String(error);

/** What state the node is in, and what to do next. */
function howToGoOn({ node, stage }: NodeReport, rest: readonly string[]): string {
  const others =
    rest.length === 0
      ? ""
      : `, then 'godwit maintenance run --nodes ${rest.join(",")} …' goes on with the others`;
  const back = `'godwit node return ${node}' brings back what was there and lets it take containers again`;
  switch (stage) {
    case "evacuating":
      return `${node} is cordoned, what has moved is remembered, and an evacuation that is under way goes on ('godwit node evacuate --cancel ${node}' ends it): ${back}${others}`;
    case "running the command":
    case "waiting until it is ready":
      return `${node} is drained and stays so: see to it, then ${back}${others}`;
    case "returning":
      return `${node} takes containers again, and a return that is under way goes on: 'godwit node return ${node}' tries again what is missing${others}`;
    default:
      return "nothing was done to it";
  }
}
