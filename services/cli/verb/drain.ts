/** `node drain`, `node evacuate` and `node return`. */
import type { ClientReadableStream, Metadata } from "@grpc/grpc-js";
import type { DrainPlanItem, DrainStatus } from "../../../proto/gen/godwit/v1/api.ts";
import { requestMetadata, type ApiClient } from "../api-client.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { followStream } from "../follow.ts";
import { printJson, table, type OutputFormat } from "../output.ts";
import { formatDuration } from "../quantity.ts";
import { connectApi, isWatched, say, waitInterruptibly } from "../session.ts";
import { DRAIN_COLUMNS, drainDocument, drainLines, PLAN_COLUMNS } from "../shape/drain.ts";

interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}

export interface MoveManyOptions extends Common {
  readonly parallel: number;
  readonly perLink: number;
  readonly dryRun: boolean;
  readonly detach: boolean;
}

export interface DrainOptions extends MoveManyOptions {
  readonly deadlineMs: number;
  readonly force: boolean;
}

/** What a drain, an evacuation and a return have in common: a plan, then something that goes on without us. */
export interface MovingMany {
  readonly verb: "drain" | "evacuate" | "return";
  /** `follow`: it was begun. The same request begins it once, however often it is made. */
  readonly open: (api: ApiClient, follow: boolean, metadata: Metadata) => ClientReadableStream<DrainStatus>;
}

export const drainOf = (
  node: string,
  verb: "drain" | "evacuate",
  options: Pick<DrainOptions, "parallel" | "perLink" | "dryRun" | "deadlineMs" | "force">,
): MovingMany => {
  const { deadlineMs, dryRun, force, parallel, perLink } = options;
  const deadlineSeconds = Math.ceil(deadlineMs / 1000);
  const evacuate = verb === "evacuate";
  const request = { node, deadlineSeconds, parallel, perLink, dryRun, force, evacuate };
  return { verb, open: (api, follow, metadata) => api.stub.drain({ ...request, follow }, metadata) };
};

export const returnOf = (
  node: string,
  { dryRun, parallel, perLink }: Pick<MoveManyOptions, "parallel" | "perLink" | "dryRun">,
): MovingMany => ({
  verb: "return",
  open: (api, follow, metadata) => api.stub.returnNode({ node, parallel, perLink, dryRun, follow }, metadata),
});

export interface Followed {
  readonly plan: readonly DrainPlanItem[];
  /** The last one; of a dry run and with --detach the first. */
  readonly status: DrainStatus;
}

/** Shows the plan, tells of each container that has moved, and resolves when all is over. */
export async function followMoves(
  api: ApiClient,
  { open }: MovingMany,
  options: {
    readonly signal: AbortSignal;
    readonly detach?: boolean;
    readonly showPlan?: (plan: readonly DrainPlanItem[]) => Promise<void>;
  },
): Promise<Followed> {
  const { detach, showPlan, signal } = options;
  let plan: readonly DrainPlanItem[] = [];
  let last: DrainStatus | undefined;
  let isBegun = false;
  let said = 0;
  const metadata = requestMetadata();
  const stream = followStream(() => open(api, isBegun, metadata), signal);
  for await (const status of stream) {
    last = status;
    if (status.state === "planned") {
      ({ plan } = status);
      await showPlan?.(plan);
      continue;
    }
    isBegun = true;
    if (detach === true) break;
    for (const item of status.moved.slice(said)) {
      if (isWatched())
        process.stderr.write(`${item.container} moved to ${item.to}, ${status.remaining.length} to go\n`);
      said += 1;
    }
  }
  if (last === undefined)
    throw new ExitWith(EXIT.failed, "the API said nothing of what is to be done; see 'godwit node ls'");
  return { plan, status: last };
}

export async function moveMany(node: string, moving: MovingMany, options: MoveManyOptions): Promise<void> {
  using api = await connectApi(options.api);
  const { detach, dryRun, output } = options;
  const { verb } = moving;
  const what = verb === "evacuate" ? "evacuation" : verb;
  const hint = (): string =>
    `the ${what}, if it has begun, goes on; follow it with 'godwit events -f', end it with 'godwit node ${verb} --cancel ${node}'`;
  const showPlan = async (plan: readonly DrainPlanItem[]): Promise<void> => {
    if (output !== "json" && plan.length > 0)
      process.stdout.write(`${await table(plan, PLAN_COLUMNS, output === "wide")}${dryRun ? "" : "\n"}`);
  };
  const { plan, status } = await waitInterruptibly(hint, (signal) =>
    followMoves(api, moving, { signal, detach, showPlan }),
  );
  if (output === "json") printJson(drainDocument(status, plan));
  else if (status.state !== "planned" && !detach && drainLines(status).length > 0)
    process.stdout.write(await table(drainLines(status), DRAIN_COLUMNS, output === "wide"));
  const line = outcomeOf(status, plan, what);
  if (output !== "json" && line !== "") say(line);
}

/** In one line; throws where it did not come off. */
function outcomeOf(status: DrainStatus, plan: readonly DrainPlanItem[], what: string): string {
  const { node, moved, state } = status;
  const count = `${moved.length} moved in ${formatDuration(status.totalMs)}`;
  switch (state) {
    case "failed": {
      const verdict =
        what === "return" ? `not everything came back to ${node}` : `${node} could not be emptied`;
      throw new ExitWith(
        EXIT.failed,
        `${verdict}: ${status.error || `${status.failed.length} containers stay`}`,
      );
    }
    case "cancelled":
      throw new ExitWith(EXIT.failed, `the ${what} of ${node} was cancelled`);
    case "drained":
      return `${node} is drained: ${count}`;
    case "returned":
      return `${node} takes containers again: ${count}`;
    case "planned":
      if (plan.length > 0) return "";
      return what === "return" ? `nothing was evacuated from ${node}` : `${node} is empty already`;
    default:
      return `the ${what} of ${node} is under way; follow it with 'godwit events -f'`;
  }
}

export async function cancelMoves(
  node: string,
  verb: "drain" | "evacuate" | "return",
  options: Common,
): Promise<void> {
  using api = await connectApi(options.api);
  const status = await api.call(verb === "return" ? "cancelReturn" : "cancelDrain", { node });
  if (options.output === "json") {
    printJson(drainDocument(status));
    return;
  }
  say(
    verb === "return"
      ? `the return of ${status.node} is cancelled; 'godwit node return ${status.node}' goes on with it`
      : `the drain of ${status.node} is cancelled; 'godwit node ${verb === "evacuate" ? "return" : "uncordon"} ${status.node}' lets it take containers again`,
  );
}
