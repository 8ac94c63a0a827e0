/** Flags of the verbs that are about load: `balance` and `stats`. */
import type { Command } from "commander";
import { GodwitError } from "../../proto/contract/error.ts";
import { BalancePolicy, type BalanceSettings } from "../../proto/gen/godwit/v1/spec.ts";
import type { OutputFormat } from "./output.ts";
import { parseCount, parseDurationMs } from "./quantity.ts";
import { apiOption, detachOption, outputOption } from "./shared-flags.ts";
import type { BalanceAction } from "./verb/balance.ts";

const ACTIONS: readonly BalanceAction[] = ["status", "plan", "run", "set"];
const POLICIES: { readonly [word: string]: BalancePolicy } = {
  off: BalancePolicy.OFF,
  recommend: BalancePolicy.RECOMMEND,
  auto: BalancePolicy.AUTO,
};
const NONE = "none";

interface BalanceFlags {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly detach: boolean;
  readonly policy?: BalancePolicy;
  readonly threshold?: number;
  readonly round?: number;
  readonly hold?: number;
  readonly smoothing?: number;
  readonly settle?: number;
  readonly coolDown?: number;
  readonly parallel?: number;
  readonly parallelPerNode?: number;
  readonly blackoutBudget?: number;
  readonly expectedStay?: number;
  readonly gainOverCost?: number;
  readonly misses?: number;
  readonly window?: string[];
  readonly freezeUntil?: number;
}

const wrong = (what: string, text: string, wanted: string): GodwitError =>
  new GodwitError("invalid", `${JSON.stringify(text)} is no ${what}; write ${wanted}`);

const parsePolicy = (text: string): BalancePolicy => {
  const policy = Object.hasOwn(POLICIES, text) ? POLICIES[text] : undefined;
  if (policy === undefined) throw wrong("policy of balancing", text, Object.keys(POLICIES).join(", "));
  return policy;
};

/** "15", "15%" -> 0.15. */
export const parsePoints = (text: string): number => {
  const match = /^([0-9]+(?:\.[0-9]+)?)%?$/.exec(text.trim());
  if (match === null) throw wrong("share", text, "points out of 100, such as 15");
  return Number(match[1]) / 100;
};

const parseFactor = (text: string): number => {
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text.trim())) throw wrong("factor", text, "a number such as 2 or 1.5");
  return Number(text);
};

const parseAction = (text: string): BalanceAction => {
  const action = ACTIONS.find((known) => known === text);
  if (action === undefined) throw wrong("action of balance", text, ACTIONS.join(", "));
  return action;
};

/** A time, how long from now, or none. */
export const parseUntilMs = (text: string, nowMs: number): number => {
  if (text === NONE) return 0;
  if (/^[0-9]{4}-[0-9]{2}-[0-9]{2}/.test(text)) {
    // A time without a zone is UTC, like all that the balancer is told.
    const ms = Date.parse(
      /([zZ]|[+-][0-9]{2}:?[0-9]{2})$/.test(text) || !text.includes("T") ? text : `${text}Z`,
    );
    if (Number.isNaN(ms)) throw wrong("time", text, "one such as 2026-01-31T12:00:00Z, 2h from now, or none");
    return ms;
  }
  return nowMs + parseDurationMs(text);
};

const addWindow = (text: string, before: readonly string[]): string[] => [...before, text];

export function addBalanceVerbs(program: Command): void {
  const count = (what: string, least: number) => (text: string) => parseCount(text, what, least);
  program
    .command("balance")
    .description("how evenly the nodes are loaded, and moving containers until they are")
    .argument("[action]", ACTIONS.join(", "), parseAction, "status")
    .option("--policy <policy>", "off, recommend (only say what) or auto (move it)", parsePolicy)
    .option("--threshold <points>", "a node this far above the mean is too hot, such as 15", parsePoints)
    .option("--round <duration>", "how often it looks, such as 10s", parseDurationMs)
    .option("--hold <rounds>", "it acts when a node was hot for so many rounds", count("number of rounds", 1))
    .option("--smoothing <duration>", "half-life of the smoothed loads", parseDurationMs)
    .option("--settle <duration>", "from a move to the measurement of its gain", parseDurationMs)
    .option("--cool-down <duration>", "a container that has moved stays at least so long", parseDurationMs)
    .option("--parallel <number>", "its moves at once", count("number of moves", 1))
    .option("--parallel-per-node <number>", "moves of one node at once", count("number of moves", 1))
    .option(
      "--blackout-budget <duration>",
      "longest pause that a move may cause; 0s: no limit",
      parseDurationMs,
    )
    .option(
      "--expected-stay <duration>",
      "how long a container will stay where it is moved to",
      parseDurationMs,
    )
    .option("--gain-over-cost <factor>", "what a move gains must be so many times its cost", parseFactor)
    .option(
      "--misses <number>",
      "pause after so many missed predictions; 0: never",
      count("number of misses", 0),
    )
    .option(
      "--window <times>",
      'only then, in UTC: "Mon-Fri 22:00-06:00"; may be given again; none: always',
      addWindow,
      [],
    )
    .option(
      "--freeze-until <time>",
      "move nothing until then, or for so long from now; none: ends it",
      (text: string) => parseUntilMs(text, Date.now()),
    )
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (action: BalanceAction, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<BalanceFlags>();
      const settings = settingsOf(flags);
      if (action === "set" && Object.keys(settings).length === 0)
        throw new GodwitError(
          "invalid",
          "say what to set, such as --policy auto; 'godwit balance --help' lists it",
        );
      const { balance } = await import("./verb/balance.ts");
      await balance(action, { ...flags, settings });
    });
  program
    .command("stats")
    .description("what containers and nodes use; on a terminal again and again")
    .argument("[name]", "only this container and its node", "")
    .option("--once", "only once, on a terminal too", false)
    .option("--interval <duration>", "between two looks, such as 2s", parseDurationMs, 2_000)
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<{
        api?: string;
        output: OutputFormat;
        once: boolean;
        interval: number;
      }>();
      const { stats } = await import("./verb/stats.ts");
      await stats(name, { ...flags, intervalMs: Math.max(200, flags.interval) });
    });
}

function settingsOf(flags: BalanceFlags): Partial<BalanceSettings> {
  const { window = [] } = flags;
  if (window.length > 1 && window.includes(NONE))
    throw new GodwitError("invalid", "--window none stands alone: it takes all windows away");
  const given: { [K in keyof BalanceSettings]?: BalanceSettings[K] | undefined } = {
    policy: flags.policy,
    threshold: flags.threshold,
    roundMs: flags.round,
    holdRounds: flags.hold,
    smoothingMs: flags.smoothing,
    settleMs: flags.settle,
    coolDownMs: flags.coolDown,
    parallel: flags.parallel,
    parallelPerNode: flags.parallelPerNode,
    blackoutBudgetMs: flags.blackoutBudget,
    expectedStayMs: flags.expectedStay,
    gainOverCost: flags.gainOverCost,
    misses: flags.misses,
    windows: window.length === 0 ? undefined : window.filter((text) => text !== NONE),
    freezeUntilMs: flags.freezeUntil,
  };
  return Object.fromEntries(
    Object.entries(given).filter(([, value]) => value !== undefined),
  ) as Partial<BalanceSettings>;
}
