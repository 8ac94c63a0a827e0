/** `failover`: whether containers of lost nodes are started elsewhere. */
import type { OutputFormat } from "../output.ts";
import { printJson } from "../output.ts";
import { connectApi, say } from "../session.ts";

export async function failover(
  enabled: boolean | undefined,
  options: { readonly api?: string; readonly output: OutputFormat },
): Promise<void> {
  using api = await connectApi(options.api);
  if (enabled !== undefined) await api.call("setFailover", { enabled });
  const { failoverOff } = await api.call("status", {});
  if (options.output === "json") printJson({ failover: !failoverOff });
  else
    say(
      failoverOff
        ? "failover is off: containers of lost nodes wait for their nodes, and hosts without the scheduler let theirs run"
        : "failover is on: hosts without the scheduler stop their containers, which are then started elsewhere",
    );
}
