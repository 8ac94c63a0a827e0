/** What the balancer's commands mean to an operator. Asked before the command applies. */
import type { BalanceAdvised, BalanceMeasured, BalanceSet } from "../../../proto/gen/godwit/v1/log.ts";
import type { BalanceForecast } from "../../../proto/gen/godwit/v1/spec.ts";
import { someOf } from "../../model/quantity.ts";
import type { Cluster } from "../../state/cluster.ts";
import type { Happening } from "../happening.ts";

const SUBJECT = "balancer";
const percent = (share: number): string => `${Math.round(share * 100)}%`;
const points = (share: number): string => `${Math.round(share * 100)} points`;
export const policyName = (policy: string): string => policy.replace(/^BALANCE_POLICY_/, "").toLowerCase();

/** "n1 87% → n2 12%, gains 40 points; blackout 120 ms" */
export const forecastText = (from: string, to: string, forecast: BalanceForecast): string =>
  `${from} ${percent(forecast.fromLoad)} → ${to} ${percent(forecast.toLoad)}, gains ${points(forecast.predictedGain)}, blackout about ${Math.round(forecast.blackoutMs)} ms`;

export const balanceSetEvent = ({ settings }: BalanceSet): Happening => ({
  kind: "balance.set",
  subject: SUBJECT,
  message: `policy ${policyName(settings?.policy ?? "")}`,
});

export const balancePausedEvent = (reason: string): Happening => ({
  kind: "balance.paused",
  subject: SUBJECT,
  message: reason,
});

export const balanceMeasuredEvents = (
  { state }: Cluster,
  { migrationId, outcome }: BalanceMeasured,
): Happening[] => {
  const migration = state.migrations[migrationId];
  if (migration?.balance === undefined || outcome === undefined) return [];
  const predicted = points(migration.balance.predictedGain);
  const message =
    outcome.remark === ""
      ? `${migrationId} ${migration.from} → ${migration.to}: gained ${points(outcome.actualGain)} of ${predicted}${outcome.missed ? ": missed" : ""}`
      : `${migrationId} ${migration.from} → ${migration.to}: ${outcome.remark} (expected ${predicted})`;
  return [{ kind: "balance.measured", subject: migration.containerName, message }];
};

export const balanceAdvisedEvent = ({ moves }: BalanceAdvised): Happening => ({
  kind: "balance.advised",
  subject: SUBJECT,
  message:
    moves.length === 0
      ? "nothing is to be moved any more"
      : `move ${someOf(
          moves.map(({ container, forecast, from, to }) =>
            forecast === undefined ? container : `${container} (${forecastText(from, to, forecast)})`,
          ),
        )}`,
});
