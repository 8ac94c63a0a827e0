/** `move`, and cancelling a migration. */
import type { MigrationInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { MigrationMode } from "../../../proto/gen/godwit/v1/spec.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { followStream } from "../follow.ts";
import { printJson, type OutputFormat } from "../output.ts";
import { startProgress } from "../progress.ts";
import { connectApi, say, waitInterruptibly } from "../session.ts";
import { copyWords, migrationRow, migrationSummary } from "../shape/migration.ts";

export interface MoveOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly mode: MigrationMode;
  readonly blackoutBudgetMs: number;
  readonly bandwidthBytesPerSecond: number;
  readonly dryRun: boolean;
  readonly detach: boolean;
}

export async function move(nameOrId: string, node: string, options: MoveOptions): Promise<void> {
  using api = await connectApi(options.api);
  const { mode, blackoutBudgetMs, bandwidthBytesPerSecond, dryRun } = options;
  const started = await api.call("move", {
    nameOrId,
    node,
    mode,
    blackoutBudgetMs,
    bandwidthBytesPerSecond,
    dryRun,
  });
  const hint = (): string =>
    `the migration goes on; follow it with 'godwit migrations ${started.id}', undo it with 'godwit migrations --cancel ${started.id}'`;
  const info =
    dryRun || options.detach
      ? started
      : await waitInterruptibly(hint, (signal) => ended(api, started, signal));
  if (options.output === "json") printJson(migrationRow(info));
  if (info.state === "aborted")
    throw new ExitWith(
      info.errorCode === "refused" ? EXIT.refused : EXIT.failed,
      `${info.container} stays on ${info.from}: ${info.error}`,
    );
  if (info.state === "lost")
    throw new ExitWith(EXIT.failed, `${info.container} was ended on ${info.to}: ${info.error}`);
  if (options.output === "json") return;
  say(
    options.detach && !dryRun
      ? `${info.container} is on its way from ${info.from} to ${info.to}; follow it with 'godwit migrations ${info.id}'`
      : migrationSummary(info),
  );
}

const isOver = ({ state }: MigrationInfo): boolean =>
  state === "finished" || state === "aborted" || state === "lost";

async function ended(api: ApiClient, started: MigrationInfo, signal: AbortSignal): Promise<MigrationInfo> {
  using progress = await startProgress();
  let last = started;
  for await (const info of followStream(() => api.stub.watchMigration({ id: started.id }), signal)) {
    last = info;
    if (isOver(info)) break;
    const phase = info.phase === "" ? info.state : info.phase;
    const label = `${info.from} → ${info.to} ${phase}${info.copy === undefined ? "" : `: ${copyWords(info.copy)}`}`;
    progress.update(info.bytesDone, info.bytesTotal, label);
  }
  if (isOver(last)) return last;
  throw new ExitWith(
    EXIT.failed,
    `the migration ${started.id} was lost sight of while it was ${last.state}; look with 'godwit migrations ${started.id}'`,
  );
}

export interface CancelOptions {
  readonly api?: string;
  readonly output: OutputFormat;
}

export async function cancel(id: string, options: CancelOptions): Promise<void> {
  using api = await connectApi(options.api);
  await cancelled(api, id, options);
}

/** Of a container, whatever its running migration is. */
export async function cancelMoveOf(nameOrId: string, options: CancelOptions): Promise<void> {
  using api = await connectApi(options.api);
  const { spec, migrationId } = await api.call("inspectContainer", { nameOrId });
  if (migrationId === "")
    throw new ExitWith(EXIT.refused, `${spec?.name ?? nameOrId} is not on its way anywhere`);
  await cancelled(api, migrationId, options);
}

async function cancelled(api: ApiClient, id: string, options: CancelOptions): Promise<void> {
  const asked = await api.call("cancelMigration", { id });
  const hint = (): string => `the cancellation is recorded; follow it with 'godwit migrations ${asked.id}'`;
  const info = await waitInterruptibly(hint, (signal) => ended(api, asked, signal));
  if (options.output === "json") printJson(migrationRow(info));
  if (info.state === "finished")
    throw new ExitWith(EXIT.refused, `too late: ${info.container} runs on ${info.to} already`);
  if (options.output !== "json") say(`${info.container} stays on ${info.from}`);
}
