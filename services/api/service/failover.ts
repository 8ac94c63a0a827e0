/** What the API says about lost nodes as a whole. */
import type { SetFailoverRequest, SetFailoverResponse } from "../../../proto/gen/godwit/v1/api.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";

export async function setFailover(
  scheduler: Scheduler,
  { enabled }: SetFailoverRequest,
): Promise<SetFailoverResponse> {
  await scheduler.setFailover(enabled);
  return {};
}
