/** What the agent of a container's node expects of a move. */
import type { NatsConnection } from "@nats-io/transport-node";
import { GodwitError, isErrorCode } from "../../../proto/contract/error.ts";
import { forecastSubject } from "../../../proto/contract/subjects.ts";
import { ForecastReply, ForecastRequest } from "../../../proto/gen/godwit/v1/agent.ts";
import type { MigrationForecast } from "../../../proto/gen/godwit/v1/spec.ts";
import type { MovePlan } from "../../../scheduler/mod.ts";
import { askAgent } from "./agent-request.ts";

export interface ForecastAnswer {
  readonly forecast: MigrationForecast | undefined;
  /** Why there is none; empty when there is, or when none was asked for. */
  readonly remark: string;
}

export const NO_FORECAST: ForecastAnswer = { forecast: undefined, remark: "" };

/** Throws what the agent refuses; one that cannot be asked is a remark, for its word on the budget comes before the freeze too. */
export async function askForecast(
  connection: NatsConnection,
  containerId: string,
  { from, ...terms }: MovePlan,
): Promise<ForecastAnswer> {
  const request = ForecastRequest.encode({ containerId, ...terms }).finish();
  try {
    const reply = ForecastReply.decode(await askAgent(connection, forecastSubject(from), from, request));
    if (reply.error !== "")
      throw new GodwitError(isErrorCode(reply.errorCode) ? reply.errorCode : "unavailable", reply.error);
    return { forecast: reply.forecast, remark: "" };
  } catch (error) {
    const failure = GodwitError.from(error, "unavailable");
    if (failure.code === "refused" || failure.code === "exhausted") throw failure;
    return { forecast: undefined, remark: `no forecast: ${failure.message}` };
  }
}
