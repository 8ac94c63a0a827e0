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
const RUNNING: ReadonlySet<string> = new Set(["running", "stopping"]);
/** On top of the grace that a container gets to stop: how long what happens may go unseen. */
const UNSEEN_MS = 3_000;
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
  // Until the node has acted, the container looks as it did before.
  const stale = before.state === "running" ? RUNNING : ENDED;
  const graceMs = stale === RUNNING ? (before.spec?.stopGraceSeconds || DEFAULT_GRACE_SECONDS) * 1000 : 0;
  const timer = action === "stop" ? undefined : setTimeout(() => patience.abort(), graceMs + UNSEEN_MS);
  let last = before;
  let acted = action === "start" && !ENDED.has(before.state);
  try {
    const signal = AbortSignal.any([interrupted, patience.signal]);
    for await (const info of followStream(() => api.stub.watchContainer({ nameOrId: before.id }), signal)) {
      last = info;
      if (info.state === "lost") {
        const message = `${name}: ${info.message}; the ${action} is recorded and happens when the node is back`;
        throw new ExitWith(EXIT.failed, message);
      }
      acted ||= !stale.has(info.state) || info.restarts !== before.restarts;
      if (action === "stop" && ENDED.has(info.state)) return info;
      if (action === "start" && acted && isUpOrOver(info, name)) return info;
      // Half-way through a restart the container has ended, in whatever way; that is no failure.
      if (action === "restart" && acted && info.state === "running") return info;
    }
  } catch (error) {
    // It may have gone down and up, or up and down, between two looks.
    if (!patience.signal.aborted || interrupted.aborted) throw error;
    if (isUpOrOver(last, name)) return last;
    return await settled(api, "start", last, interrupted);
  } finally {
    clearTimeout(timer);
  }
  throw new ExitWith(EXIT.failed, `${name} was removed meanwhile`);
}

/** True when it runs or has done its work, false when it is on its way; throws when it failed. */
function isUpOrOver(info: ContainerInfo, name: string): boolean {
  if (info.state === "running" || (info.state === "exited" && info.exitCode === 0)) return true;
  if (info.state !== "failed" && info.state !== "exited") return false;
  const why =
    info.message === "" || info.message === info.state ? `exit code ${info.exitCode}` : info.message;
  throw new ExitWith(EXIT.failed, `${name} did not start: ${why}; 'godwit logs ${name}' may say more`);
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
