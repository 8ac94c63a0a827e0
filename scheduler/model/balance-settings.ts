import { BalancePolicy, BalanceSettings } from "../../proto/gen/godwit/v1/spec.ts";
import { parseWindow } from "./maintenance-window.ts";

export const DEFAULT_BALANCE: BalanceSettings = {
  policy: BalancePolicy.RECOMMEND,
  threshold: 0.15,
  roundMs: 10_000,
  holdRounds: 3,
  smoothingMs: 20_000,
  settleMs: 40_000,
  coolDownMs: 600_000,
  parallel: 4,
  parallelPerNode: 1,
  blackoutBudgetMs: 1_000,
  expectedStayMs: 600_000,
  gainOverCost: 2,
  misses: 3,
  windows: [],
  freezeUntilMs: 0,
};

const HOUR_MS = 3_600_000;
const MAX_WINDOWS = 32;

/** Least and most of each number; they keep a slip of the hand from becoming a storm of moves. */
const BOUNDS = {
  threshold: [0.01, 10],
  roundMs: [250, HOUR_MS],
  holdRounds: [1, 1_000],
  smoothingMs: [250, 24 * HOUR_MS],
  settleMs: [0, 24 * HOUR_MS],
  coolDownMs: [0, 365 * 24 * HOUR_MS],
  parallel: [1, 1_000],
  parallelPerNode: [1, 64],
  blackoutBudgetMs: [0, HOUR_MS],
  expectedStayMs: [0, 365 * 24 * HOUR_MS],
  gainOverCost: [0, 1_000],
  misses: [0, 1_000],
  freezeUntilMs: [0, Number.MAX_SAFE_INTEGER],
} as const satisfies Partial<Record<keyof BalanceSettings, readonly [number, number]>>;

/** What is wrong with the settings, or undefined. */
export const balanceFault = (settings: BalanceSettings): string | undefined => {
  for (const [name, [least, most]] of Object.entries(BOUNDS)) {
    const value = settings[name as keyof typeof BOUNDS];
    const isWhole = name === "threshold" || name === "gainOverCost" || Number.isSafeInteger(value);
    if (!Number.isFinite(value) || !isWhole || value < least || value > most)
      return `the setting ${name} of the balancer must be from ${least} to ${most}, not ${value}`;
  }
  if (!Object.values(BalancePolicy).includes(settings.policy)) return "there is no such policy of balancing";
  if (settings.windows.length > MAX_WINDOWS) return `more than ${MAX_WINDOWS} windows`;
  const wrong = settings.windows.find((text) => parseWindow(text) === undefined);
  return wrong === undefined
    ? undefined
    : `${JSON.stringify(wrong.slice(0, 80))} is no window: write one such as "Mon-Fri 22:00-06:00" (UTC)`;
};

/** `fields` of `given` in the place of what is set now. Undefined: there is no such field. */
export const mergedSettings = (
  now: BalanceSettings,
  given: BalanceSettings,
  fields: readonly string[],
): BalanceSettings | undefined => {
  if (!fields.every((field) => Object.hasOwn(DEFAULT_BALANCE, field))) return undefined;
  const taken = fields.map((field) => [field, given[field as keyof BalanceSettings]]);
  return { ...now, ...(Object.fromEntries(taken) as Partial<BalanceSettings>) };
};
