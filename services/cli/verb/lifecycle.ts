/** `stop`, `start`, `restart` and `rm`, each until it is done. */
import type { ContainerInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith, GRPC, isCallFailure } from "../failure.ts";
import { followStream } from "../follow.ts";
import { connectApi, say, waitInterruptibly } from "../session.ts";

export type Action = "start" | "stop" | "restart";

interface WaitOptions {
  readonly api?: string;
  readonly detach: boolean;
}

const ENDED: ReadonlySet<string> = new Set(["stopped", "exited", "failed"]);
/** On top of the grace that a container gets to stop: how long a restart may go unseen. */
const RESTART_SLACK_MS = 5_000;
const DEFAULT_GRACE_SECONDS = 10;

export async function act(action: Action, names: readonly string[], options: WaitOptions): Promise<void> {
  using api = await connectApi(options.api);
  for (const nameOrId of names) {
    const before = await api.call("inspectContainer", { nameOrId });
    const name = before.spec?.name ?? before.id;
    await api.call("setDesired", { nameOrId: before.id, action });
    if (options.detach) {
      say(`${name}: ${action} recorded`);
      continue;
    }
    const hint = (): string =>
      `the ${action} of ${name} goes on without this command; 'godwit ps' shows how far it is`;
    const info = await waitInterruptibly(hint, (signal) => settled(api, action, before, signal));
    say(`${name} ${info.state}${info.state === "running" ? ` on ${info.node}` : ""}`);
  }
}

/** Waits until the action has shown its effect; throws when it cannot. */
async function settled(
  api: ApiClient,
  action: Action,
  before: ContainerInfo,
  interrupted: AbortSignal,
): Promise<ContainerInfo> {
  const name = before.spec?.name ?? before.id;
  const patience = new AbortController();
  const graceMs = (before.spec?.stopGraceSeconds || DEFAULT_GRACE_SECONDS) * 1000;
  const timer =
    action === "restart" ? setTimeout(() => patience.abort(), graceMs + RESTART_SLACK_MS) : undefined;
  let last = before;
  let interruption = before.state !== "running";
  try {
    for await (const info of followStream(
      () => api.stub.watchContainer({ nameOrId: before.id }),
      AbortSignal.any([interrupted, patience.signal]),
    )) {
      last = info;
      if (info.state === "lost")
        throw new ExitWith(
          EXIT.failed,
          `${name}: ${info.message}; the ${action} is recorded and happens when the node is back`,
        );
      if (action === "stop") {
        if (ENDED.has(info.state)) return info;
        continue;
      }
      if (info.state === "failed")
        throw new ExitWith(
          EXIT.failed,
          `${name} did not start: ${info.message === "" ? `exit code ${info.exitCode}` : info.message}`,
        );
      // A restart is over when the container was seen down, or counted as started again, and runs.
      interruption ||= info.state !== "running" || info.restarts !== before.restarts;
      if (info.state === "running" && (action === "start" || interruption)) return info;
      if (info.state === "exited" && info.exitCode === 0 && action === "start") return info;
    }
  } catch (error) {
    // It may have gone down and up between two looks.
    if (patience.signal.aborted && !interrupted.aborted && last.state === "running") return last;
    throw error;
  } finally {
    clearTimeout(timer);
  }
  throw new ExitWith(EXIT.failed, `${name} was removed meanwhile`);
}

export async function remove(
  names: readonly string[],
  options: WaitOptions & { readonly force: boolean },
): Promise<void> {
  using api = await connectApi(options.api);
  for (const nameOrId of names) {
    const { id, spec } = await api.call("inspectContainer", { nameOrId });
    const name = spec?.name ?? id;
    await api.call("removeContainer", { nameOrId: id, force: options.force });
    const hint = (): string =>
      `the removal of ${name} goes on without this command; 'godwit ps' shows it until it is gone`;
    if (!options.detach) await waitInterruptibly(hint, (signal) => gone(api, id, name, signal));
    say(options.detach ? `${name}: removal recorded` : `${name} removed`);
  }
}

async function gone(api: ApiClient, id: string, name: string, signal: AbortSignal): Promise<void> {
  try {
    for await (const info of followStream(() => api.stub.watchContainer({ nameOrId: id }), signal)) {
      if (info.state === "lost")
        throw new ExitWith(
          EXIT.failed,
          `${name}: ${info.message}; the removal is recorded and happens when the node is back`,
        );
    }
  } catch (error) {
    if (isCallFailure(error) && error.code === GRPC.notFound) return; // gone before it could be watched
    throw error;
  }
}
