import { GodwitError } from "../../proto/contract/error.ts";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import { command } from "../plan/command.ts";
import type { Outcome } from "../state/rejection.ts";
import { asRequested } from "./request.ts";

export const setFailover = async (
  propose: (command: Command) => Promise<Outcome>,
  enabled: boolean,
): Promise<void> => {
  const outcome = await propose(asRequested(command("failoverSet", { enabled })));
  if (outcome !== undefined) throw new GodwitError(outcome.code, outcome.message);
};
