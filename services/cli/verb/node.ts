/** `node cordon`, `node uncordon`, `node trust`, `node rm` and `node drain`. */
import type { DrainStatus } from "../../../proto/gen/godwit/v1/api.ts";
import { requestMetadata, type ApiClient } from "../api-client.ts";
import { EXIT, ExitWith, isUnreachable } from "../failure.ts";
import { followStream } from "../follow.ts";
import { printJson, table, type OutputFormat } from "../output.ts";
import { formatDuration } from "../quantity.ts";
import { connectApi, isWatched, say, waitInterruptibly } from "../session.ts";
import { DRAIN_COLUMNS, drainDocument, drainLines } from "../shape/node.ts";

export async function setSchedulable(
  names: readonly string[],
  schedulable: boolean,
  options: { readonly api?: string },
): Promise<void> {
  using api = await connectApi(options.api);
  for (const node of names) {
    const summary = await api.call("setSchedulable", { node, schedulable });
    say(
      schedulable
        ? `${summary.name} takes containers again`
        : `${summary.name} takes no new containers; 'godwit node drain ${summary.name}' moves those away that it has`,
    );
  }
}

export async function trustKey(node: string, key: Buffer, options: { readonly api?: string }): Promise<void> {
  using api = await connectApi(options.api);
  const summary = await api.call("trustNodeKey", { node, key });
  say(`${summary.name} is the node with this key from now on`);
}

export async function removeNode(
  name: string,
  options: { readonly api?: string; readonly isOff: boolean },
): Promise<void> {
  using api = await connectApi(options.api);
  const { node, placedAnew, returned } = await api.call("removeNode", { node: name, isOff: options.isOff });
  say(`${node || name} is no node of the cluster any more`);
  for (const container of returned) say(`${container} goes on at the host that has it frozen`);
  for (const container of placedAnew) say(`${container} is started anew`);
}

export interface DrainOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly deadlineMs: number;
  readonly parallel: number;
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly detach: boolean;
}

export async function drain(node: string, options: DrainOptions): Promise<void> {
  using api = await connectApi(options.api);
  const hint = (): string =>
    `the drain goes on; follow it with 'godwit events -f', end it with 'godwit node drain --cancel ${node}'`;
  const status = await waitInterruptibly(hint, (signal) => follow(api, node, options, signal));
  if (options.output === "json") printJson(drainDocument(status));
  else if (drainLines(status).length > 0)
    process.stdout.write(await table(drainLines(status), DRAIN_COLUMNS, options.output === "wide"));
  switch (status.state) {
    case "failed":
      throw new ExitWith(
        EXIT.failed,
        `${status.node} could not be emptied: ${status.error === "" ? `${status.failed.length} containers stay` : status.error}`,
      );
    case "cancelled":
      throw new ExitWith(EXIT.failed, `the drain of ${status.node} was cancelled`);
    case "drained":
      if (options.output !== "json")
        say(`${status.node} is drained: ${status.moved.length} moved in ${formatDuration(status.totalMs)}`);
      return;
    case "planned":
      if (options.output !== "json" && status.remaining.length === 0) say(`${status.node} is empty already`);
      return;
    default:
      if (options.output !== "json")
        say(`${status.node} is being drained; follow it with 'godwit events -f'`);
  }
}

/** The last status, or with --detach the first. */
async function follow(
  api: ApiClient,
  node: string,
  options: DrainOptions,
  signal: AbortSignal,
): Promise<DrainStatus> {
  const { parallel, dryRun, force } = options;
  const request = { node, deadlineSeconds: Math.ceil(options.deadlineMs / 1000), parallel, dryRun, force };
  let last: DrainStatus | undefined;
  let said = 0;
  // The same request each time: it begins one drain, and goes on with it after that.
  const metadata = requestMetadata();
  try {
    for await (const status of followStream(() => api.stub.drain(request, metadata), signal)) {
      last = status;
      if (options.detach) return status;
      for (const item of status.moved.slice(said)) {
        if (isWatched())
          process.stderr.write(`${item.container} moved to ${item.to}, ${status.remaining.length} to go\n`);
        said += 1;
      }
    }
  } catch (error) {
    if (last === undefined || !isUnreachable(error)) throw error;
    throw new ExitWith(
      EXIT.failed,
      `the API went away; the drain of ${node} goes on with it, follow it with 'godwit events -f'`,
    );
  }
  if (last === undefined)
    throw new ExitWith(
      EXIT.failed,
      `the API did not say how the drain of ${node} went; see 'godwit node ls'`,
    );
  return last;
}

export async function cancelDrain(
  node: string,
  options: { readonly api?: string; readonly output: OutputFormat },
): Promise<void> {
  using api = await connectApi(options.api);
  const status = await api.call("cancelDrain", { node });
  if (options.output === "json") printJson(drainDocument(status));
  else
    say(
      `the drain of ${status.node} is cancelled; 'godwit node uncordon ${status.node}' lets it take containers again`,
    );
}
