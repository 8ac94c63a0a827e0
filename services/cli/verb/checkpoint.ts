/** `checkpoint create|ls|restore|rm`. */
import { setTimeout as delay } from "node:timers/promises";
import type { CheckpointInfo } from "../../../proto/gen/godwit/v1/checkpoint.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { printJson, printList, type OutputFormat } from "../output.ts";
import { formatBytes, formatDuration } from "../quantity.ts";
import { connectApi, say, waitInterruptibly } from "../session.ts";
import { checkpointColumns, checkpointRow } from "../shape/checkpoint.ts";

interface Options {
  readonly api?: string;
  readonly output: OutputFormat;
}

const LOOK_MS = 250;

export async function createCheckpoint(
  container: string,
  options: Options & { readonly detach: boolean },
): Promise<void> {
  using api = await connectApi(options.api);
  const begun = await api.call("createCheckpoint", { container });
  const hint = (): string => `it goes on being taken; 'godwit checkpoint ls ${begun.container}' shows it`;
  const info = options.detach
    ? begun
    : await waitInterruptibly(hint, (signal) => untilOver(api, begun, signal));
  if (info.state === "failed")
    throw new ExitWith(EXIT.failed, `no checkpoint of ${info.container}: ${info.error}`);
  if (options.output === "json") printJson(checkpointRow(info));
  else if (options.detach) say(`checkpoint ${info.id} of ${info.container} is being taken`);
  else
    say(
      `checkpoint ${info.id} of ${info.container} is kept on ${info.keepers.join(" and ")}: ${formatBytes(info.sizeBytes)} of ${formatBytes(info.wholeBytes)} sent, blackout ${formatDuration(info.blackoutMs)}`,
    );
}

async function untilOver(
  api: ApiClient,
  begun: CheckpointInfo,
  signal: AbortSignal,
): Promise<CheckpointInfo> {
  for (;;) {
    const { checkpoints } = await api.call("listCheckpoints", { container: begun.containerId });
    const info = checkpoints.find(({ id }) => id === begun.id);
    if (info === undefined)
      throw new ExitWith(EXIT.failed, `checkpoint ${begun.id} was removed before it was complete`);
    if (info.state !== "taking") return info;
    await delay(LOOK_MS, undefined, { signal });
  }
}

export async function listCheckpoints(container: string | undefined, options: Options): Promise<void> {
  using api = await connectApi(options.api);
  const { checkpoints } = await api.call("listCheckpoints", { container: container ?? "" });
  await printList(options.output, checkpoints, checkpointColumns(Date.now()), checkpointRow);
}

export async function restoreCheckpoint(
  id: string,
  options: Options & { readonly node: string },
): Promise<void> {
  using api = await connectApi(options.api);
  const { container, node } = await api.call("restoreCheckpoint", { id, node: options.node });
  if (options.output === "json") printJson({ container, node });
  else say(`${container} goes on from it on ${node}; its TCP connections of that moment are closed`);
}

export async function removeCheckpoints(
  ids: readonly string[],
  options: { readonly api?: string },
): Promise<void> {
  using api = await connectApi(options.api);
  for (const id of ids) {
    await api.call("removeCheckpoint", { id });
    say(`checkpoint ${id} removed`);
  }
}
