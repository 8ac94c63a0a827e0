/** `balance`: how the load is spread, what would be moved, and what the balancer may do. */
import type { BalanceSettings } from "../../../proto/gen/godwit/v1/spec.ts";
import type { MigrationInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { followStream } from "../follow.ts";
import { printFields, printJson, printList, table, type OutputFormat } from "../output.ts";
import { connectApi, say, waitInterruptibly } from "../session.ts";
import {
  ADVICE_COLUMNS,
  BALANCE_NODE_COLUMNS,
  balanceLines,
  balanceMoveColumns,
  balanceStatusDocument,
  planDocument,
} from "../shape/balance.ts";
import { migrationDetail, migrationSummary } from "../shape/migration.ts";

export type BalanceAction = "status" | "plan" | "run" | "set";

export interface BalanceOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly detach: boolean;
  /** What is to be changed before. */
  readonly settings: Partial<BalanceSettings>;
}

const NO_SETTINGS = {
  policy: "BALANCE_POLICY_UNSPECIFIED",
  threshold: 0,
  roundMs: 0,
  holdRounds: 0,
  smoothingMs: 0,
  settleMs: 0,
  coolDownMs: 0,
  parallel: 0,
  parallelPerNode: 0,
  blackoutBudgetMs: 0,
  expectedStayMs: 0,
  gainOverCost: 0,
  misses: 0,
  windows: [],
  freezeUntilMs: 0,
} satisfies BalanceSettings;

export async function balance(action: BalanceAction, options: BalanceOptions): Promise<void> {
  using api = await connectApi(options.api);
  const fields = Object.keys(options.settings);
  if (fields.length > 0)
    await api.call("setBalance", { settings: { ...NO_SETTINGS, ...options.settings }, fields });
  switch (action) {
    case "plan":
      await plan(api, options.output);
      return;
    case "run":
      await run(api, options);
      return;
    default:
      await status(api, options.output);
  }
}

async function status(api: ApiClient, output: OutputFormat): Promise<void> {
  const report = await api.call("balanceStatus", {});
  if (output === "json") {
    printJson(balanceStatusDocument(report));
    return;
  }
  const wide = output === "wide";
  const nowMs = Date.now();
  await printFields(balanceLines(report, nowMs));
  say("");
  process.stdout.write(await table(report.nodes, BALANCE_NODE_COLUMNS, wide));
  if (report.advice.length > 0) {
    say("\nIt would move:");
    process.stdout.write(await table(report.advice, ADVICE_COLUMNS, wide));
  }
  if (report.moves.length > 0) {
    say("\nIt has moved:");
    process.stdout.write(await table(report.moves, balanceMoveColumns(nowMs), wide));
  }
}

async function plan(api: ApiClient, output: OutputFormat): Promise<void> {
  const { idleBecause, moves } = await api.call("planBalance", {});
  if (output === "json") printJson(planDocument(moves, idleBecause));
  else {
    if (moves.length > 0) await printList(output, moves, ADVICE_COLUMNS, (move) => move);
    else say("Nothing would be moved.");
    for (const why of idleBecause) say(moves.length > 0 ? `No more: ${why}` : why);
  }
}

async function run(api: ApiClient, options: BalanceOptions): Promise<void> {
  const { idleBecause, migrationIds, moves } = await api.call("runBalance", {});
  const hint = (): string =>
    `what has begun goes on: ${migrationIds.map((id) => `godwit migrations ${id}`).join(", ")}`;
  const ended = options.detach
    ? await Promise.all(migrationIds.map((id) => look(api, id)))
    : await waitInterruptibly(hint, (signal) =>
        Promise.all(migrationIds.map((id) => watch(api, id, signal))),
      );
  if (options.output === "json")
    printJson({ ...planDocument(moves, idleBecause), moves: ended.map(migrationDetail) });
  else {
    for (const info of ended) say(lineOf(info));
    if (ended.length === 0) say("Nothing was moved.");
    for (const why of idleBecause) say(ended.length > 0 ? `No more: ${why}` : why);
  }
  const failed = ended.filter(({ state }) => state === "aborted").length;
  if (failed > 0) throw new ExitWith(EXIT.failed, `${failed} of ${ended.length} moves failed`);
}

function lineOf(info: MigrationInfo): string {
  if (info.state === "finished") return migrationSummary(info);
  return info.state === "aborted"
    ? `${info.container} stays on ${info.from}: ${info.error}`
    : `${info.container} is on its way from ${info.from} to ${info.to} (migration ${info.id})`;
}

async function look(api: ApiClient, id: string): Promise<MigrationInfo> {
  const { migrations } = await api.call("listMigrations", { id, container: "", limit: 1 });
  const [info] = migrations;
  if (info === undefined) throw new ExitWith(EXIT.failed, `the migration ${id} was lost sight of`);
  return info;
}

async function watch(api: ApiClient, id: string, signal: AbortSignal): Promise<MigrationInfo> {
  let last: MigrationInfo | undefined;
  for await (const info of followStream(() => api.stub.watchMigration({ id }), signal)) {
    last = info;
    if (info.state === "finished" || info.state === "aborted") return info;
  }
  throw new ExitWith(
    EXIT.failed,
    `the migration ${id} was lost sight of while it was ${last?.state ?? "new"}`,
  );
}
