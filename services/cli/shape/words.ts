/** Enums as the short words that people and scripts see. Pure. */
import {
  FailoverPolicy,
  MigrationMode,
  MigrationPolicy,
  PlacementStrategy,
  PreemptionPolicy,
  RestartPolicy,
} from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";

const MODES = {
  auto: MigrationMode.AUTO,
  cold: MigrationMode.COLD,
  checkpoint: MigrationMode.CHECKPOINT,
  precopy: MigrationMode.PRECOPY,
  postcopy: MigrationMode.POSTCOPY,
} as const;
export const RESTARTS = {
  always: RestartPolicy.ALWAYS,
  "on-failure": RestartPolicy.ON_FAILURE,
  never: RestartPolicy.NEVER,
} as const;
export const POLICIES = {
  live: MigrationPolicy.LIVE,
  cold: MigrationPolicy.COLD,
  never: MigrationPolicy.NEVER,
} as const;
export const STRATEGIES = { spread: PlacementStrategy.SPREAD, pack: PlacementStrategy.PACK } as const;
export const PREEMPTIONS = {
  move: PreemptionPolicy.MOVE,
  stop: PreemptionPolicy.STOP,
  never: PreemptionPolicy.NEVER,
} as const;

function parser<E extends string>(what: string, words: { readonly [word: string]: E }): (text: string) => E {
  return (text) => {
    const value = Object.hasOwn(words, text) ? words[text] : undefined;
    if (value === undefined)
      throw new GodwitError(
        "invalid",
        `${JSON.stringify(text)} is no ${what}; known are ${Object.keys(words).join(", ")}`,
      );
    return value;
  };
}
function namer<E extends string>(words: { readonly [word: string]: E }, unset: string): (value: E) => string {
  return (value) => Object.entries(words).find(([, known]) => known === value)?.[0] ?? unset;
}

export const FAILOVERS = { auto: FailoverPolicy.AUTO, never: FailoverPolicy.NEVER } as const;
export const parseFailover = parser<FailoverPolicy>("failover policy", FAILOVERS);
export const failoverWord = namer<FailoverPolicy>(FAILOVERS, "auto");
export const parseMode = parser<MigrationMode>("migration mode", MODES);
export const modeWord = namer<MigrationMode>(MODES, "auto");
export const parseRestart = parser<RestartPolicy>("restart policy", RESTARTS);
export const restartWord = namer<RestartPolicy>(RESTARTS, "always");
export const parsePolicy = parser<MigrationPolicy>("migration policy", POLICIES);
export const policyWord = namer<MigrationPolicy>(POLICIES, "live");
export const parseStrategy = parser<PlacementStrategy>("way to place", STRATEGIES);
export const strategyWord = namer<PlacementStrategy>(STRATEGIES, "default");
export const parsePreemption = parser<PreemptionPolicy>("preemption policy", PREEMPTIONS);
export const preemptionWord = namer<PreemptionPolicy>(PREEMPTIONS, "move");

/** RFC 3339, or null for a time that has not come. */
export const timeOrNull = (ms: number): string | null => (ms === 0 ? null : new Date(ms).toISOString());
export const textOrNull = (text: string): string | null => (text === "" ? null : text);
