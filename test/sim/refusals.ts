/** What planners propose and the state machine refuses, over and over: each time costs an entry of the log. */
import type { Command } from "../../proto/gen/godwit/v1/log.ts";

/** Now and then a plan is overtaken by what came before it in the log. */
const MOST_IN_A_ROW = 20;

/** Nobody asks for these at the command line, or hardly ever for the same thing so often. */
const PLANNED = new Set<string>([
  "allocationObserved",
  "allocationPlaced",
  "checkpointFailed",
  "checkpointStarted",
  "checkpointStored",
  "containerPreempted",
  "containerRemoved",
  "migrationAborted",
  "migrationFinished",
  "migrationLost",
  "migrationReturned",
  "migrationStarted",
  "migrationSwitched",
  "nodeFenceSet",
  "nodeFenced",
  "serviceContainerAmended",
  "serviceContainerCreated",
  "serviceContainerRetired",
  "serviceRemoved",
  "serviceRolloutEnded",
]);

export class Refusals {
  readonly #inARow = new Map<string, number>();

  /** The rule that it breaks. */
  note({ command, requestId = "" }: Command, isAccepted: boolean): string | undefined {
    if (command === undefined || requestId !== "" || !PLANNED.has(command.$case)) return undefined;
    const { containerId, id, name, node, service } = command.value as unknown as Readonly<
      Record<string, unknown>
    >;
    const subject = [containerId ?? id ?? name ?? service ?? node].map(String).join();
    const key = `${command.$case} of ${subject}`;
    const inARow = isAccepted ? 0 : (this.#inARow.get(key) ?? 0) + 1;
    this.#inARow.set(key, inARow);
    return inARow > MOST_IN_A_ROW ? `${key} was planned and refused ${inARow} times in a row` : undefined;
  }
}
