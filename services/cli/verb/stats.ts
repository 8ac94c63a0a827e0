/** `stats`: what containers and nodes use, again and again on a terminal, else once. */
import type { StatsReport } from "../../../proto/gen/godwit/v1/api.ts";
import type { ApiClient } from "../api-client.ts";
import { isUnreachable } from "../failure.ts";
import { printJson, table, type OutputFormat } from "../output.ts";
import { connectApi } from "../session.ts";
import { CONTAINER_STATS_COLUMNS, NODE_STATS_COLUMNS, statsDocument } from "../shape/stats.ts";

export interface StatsOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly once: boolean;
  readonly intervalMs: number;
}

const HIDE_CURSOR = "\u001b[?25l";
const SHOW_CURSOR = "\u001b[?25h";
const TOP_LEFT = "\u001b[H";
const CLEAR_LINE_END = "\u001b[K";
const CLEAR_BELOW = "\u001b[J";
/** A restart of the API takes seconds. */
const PATIENCE_MS = 60_000;

export async function stats(nameOrId: string, options: StatsOptions): Promise<void> {
  using api = await connectApi(options.api);
  if (options.output === "json") printJson(statsDocument(await api.call("listStats", { nameOrId })));
  else if (options.once || !process.stdout.isTTY)
    process.stdout.write(await page(await api.call("listStats", { nameOrId }), options.output === "wide"));
  else await watch(api, nameOrId, options);
}

async function page(report: StatsReport, wide: boolean): Promise<string> {
  const nodes = await table(report.nodes, NODE_STATS_COLUMNS, wide);
  const containers = await table(report.containers, CONTAINER_STATS_COLUMNS, wide);
  return `${nodes}\n${containers}`;
}

/** Like top: one screen, drawn over itself, until Ctrl-C. */
async function watch(api: ApiClient, nameOrId: string, options: StatsOptions): Promise<void> {
  const stopped = new AbortController();
  const onSignal = (): void => stopped.abort();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, onSignal);
  process.stdout.write(`${HIDE_CURSOR}${TOP_LEFT}${CLEAR_BELOW}`);
  let silentSinceMs: number | undefined;
  try {
    while (!stopped.signal.aborted) {
      try {
        const report = await api.call("listStats", { nameOrId });
        silentSinceMs = undefined;
        draw(await page(report, options.output === "wide"), new Date(report.atMs));
      } catch (error) {
        const nowMs = performance.now();
        silentSinceMs ??= nowMs;
        if (!isUnreachable(error) || nowMs - silentSinceMs > PATIENCE_MS) throw error;
      }
      await pause(options.intervalMs, stopped.signal);
    }
  } finally {
    process.stdout.write(SHOW_CURSOR);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(signal, onSignal);
  }
}

function draw(text: string, at: Date): void {
  const rows = Math.max(2, process.stdout.rows - 1);
  const columns = Math.max(20, process.stdout.columns);
  const lines = [`${at.toISOString()}   Ctrl-C ends`, "", ...text.trimEnd().split("\n")];
  // What does not fit would make the screen roll.
  const shown = lines.slice(0, rows).map((line) => `${line.slice(0, columns - 1)}${CLEAR_LINE_END}`);
  process.stdout.write(`${TOP_LEFT}${shown.join("\n")}\n${CLEAR_BELOW}`);
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const onAbort = (): void => resolve();
  signal.addEventListener("abort", onAbort, { once: true });
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", onAbort);
}
