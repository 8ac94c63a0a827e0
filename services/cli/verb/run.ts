/** `run`: records a container and waits until it runs. */
import type { ContainerInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { ContainerSpec } from "../../../proto/gen/godwit/v1/spec.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { followStream } from "../follow.ts";
import { printJson, type OutputFormat } from "../output.ts";
import { connectApi, say, waitInterruptibly } from "../session.ts";
import { containerDetail } from "../shape/container.ts";

export interface RunOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly detach: boolean;
}

/** How long a container may find no room before `run` stops waiting for it. */
const NO_ROOM_MS = 5_000;
/** And while others are on their way to make it: moves and stops take time. */
const ROOM_IS_MADE_MS = 120_000;

export async function run(spec: ContainerSpec, options: RunOptions): Promise<void> {
  using api = await connectApi(options.api);
  const recorded = await api.call("run", { spec });
  const hint = (): string =>
    `${spec.name} goes on starting without this command; 'godwit ps' shows it, 'godwit logs ${spec.name}' its output`;
  const info = options.detach
    ? recorded
    : await waitInterruptibly(hint, (signal) => untilStarted(api, recorded, signal));
  if (options.output === "json") printJson(containerDetail(info));
  else if (options.detach) say(`${spec.name} recorded (${info.id})`);
  else say(`${spec.name} ${info.state} on ${info.node} at ${info.address.split("/", 1)[0] ?? ""}`);
}

/** Throws when it failed to start, or when no node has room for it. */
async function untilStarted(
  api: ApiClient,
  recorded: ContainerInfo,
  interrupted: AbortSignal,
): Promise<ContainerInfo> {
  const name = recorded.spec?.name ?? recorded.id;
  const noRoom = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let roomIsMade = false;
  let last = recorded;
  try {
    const signal = AbortSignal.any([interrupted, noRoom.signal]);
    for await (const info of followStream(() => api.stub.watchContainer({ nameOrId: recorded.id }), signal)) {
      last = info;
      if (info.state === "running") return info;
      if (info.state === "exited" && info.exitCode === 0) return info;
      if (info.state === "failed" || info.state === "exited")
        throw new ExitWith(EXIT.failed, `${name} did not start: ${reasonOf(info)}`);
      if (info.state === "stopped" || info.state === "removing")
        throw new ExitWith(
          EXIT.failed,
          `${name} was ${info.state === "stopped" ? "stopped" : "removed"} before it ran`,
        );
      if (info.state !== "pending" || info.message === "") {
        clearTimeout(timer);
        timer = undefined;
      } else {
        const isMade = info.nominatedNode !== undefined;
        if (isMade !== roomIsMade) clearTimeout(timer);
        if (isMade !== roomIsMade || timer === undefined)
          timer = setTimeout(() => noRoom.abort(), isMade ? ROOM_IS_MADE_MS : NO_ROOM_MS);
        roomIsMade = isMade;
      }
    }
    throw new ExitWith(EXIT.failed, `${name} was removed before it ran`);
  } catch (error) {
    if (!noRoom.signal.aborted || interrupted.aborted) throw error;
    throw new ExitWith(
      EXIT.refused,
      `${name} is recorded and waits for a place: ${last.message}; it starts by itself when there is one, 'godwit rm ${name}' gives up`,
    );
  } finally {
    clearTimeout(timer);
  }
}

function reasonOf(info: ContainerInfo): string {
  if (info.message !== "") return info.message;
  return `it ended with exit code ${info.exitCode}; 'godwit logs ${info.spec?.name ?? info.id}' may say why`;
}
