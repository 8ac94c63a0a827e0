import {
  type BalanceAdvised,
  type BalanceMeasured,
  type BalancePaused,
  type BalanceSet,
  type Balancing,
  MigrationState,
  type State,
} from "../../proto/gen/godwit/v1/log.ts";
import { BalancePolicy, type BalanceSettings } from "../../proto/gen/godwit/v1/spec.ts";
import { balanceFault, DEFAULT_BALANCE } from "../model/balance-settings.ts";
import type { Cluster } from "./cluster.ts";
import { reject, type ApplyContext, type Outcome } from "./rejection.ts";

const MAX_TEXT = 1_024;
const MAX_ADVICE = 1_000;

export const balanceSettingsOf = ({ balancing }: Pick<State, "balancing">): Readonly<BalanceSettings> => {
  const settings = balancing?.settings;
  if (settings === undefined) return DEFAULT_BALANCE;
  return settings.policy === BalancePolicy.UNSPECIFIED
    ? { ...settings, policy: DEFAULT_BALANCE.policy }
    : settings;
};

const ENDED: ReadonlySet<MigrationState> = new Set([
  MigrationState.FINISHED,
  MigrationState.ABORTED,
  MigrationState.LOST,
]);

const balancingOf = ({ state }: Cluster): Balancing =>
  (state.balancing ??= { pausedReason: "", pausedAtMs: 0, setAtMs: 0, advice: [], advisedAtMs: 0 });

export const balanceSet = (cluster: Cluster, { settings }: BalanceSet, { atMs }: ApplyContext): Outcome => {
  if (settings === undefined) return reject("invalid", "no settings given");
  const fault = balanceFault(settings);
  if (fault !== undefined) return reject("invalid", fault);
  Object.assign(balancingOf(cluster), {
    settings,
    pausedReason: "",
    pausedAtMs: 0,
    setAtMs: atMs,
    advice: [],
    advisedAtMs: 0,
  } satisfies Balancing);
  return undefined;
};

export const balancePaused = (
  cluster: Cluster,
  { reason }: BalancePaused,
  { atMs }: ApplyContext,
): Outcome => {
  if (reason === "") return reject("invalid", "the balancer cannot be paused without a reason");
  const balancing = balancingOf(cluster);
  if (balancing.pausedReason !== "") return reject("refused", "the balancer is paused already");
  Object.assign(balancing, { pausedReason: reason.slice(0, MAX_TEXT), pausedAtMs: atMs });
  return undefined;
};

export const balanceMeasured = (cluster: Cluster, { migrationId, outcome }: BalanceMeasured): Outcome => {
  const migration = cluster.state.migrations[migrationId];
  if (migration === undefined) return reject("not-found", `there is no migration ${migrationId}`);
  if (outcome === undefined || !Number.isFinite(outcome.actualGain))
    return reject("invalid", "no measurement given");
  if (migration.balance === undefined)
    return reject("refused", `migration ${migrationId} was not the balancer's`);
  if (migration.balanceOutcome !== undefined)
    return reject("refused", `what migration ${migrationId} gained has been measured already`);
  if (!ENDED.has(migration.state)) return reject("refused", `migration ${migrationId} has not ended`);
  migration.balanceOutcome = { ...outcome, remark: outcome.remark.slice(0, MAX_TEXT) };
  return undefined;
};

export const balanceAdvised = (
  cluster: Cluster,
  { moves }: BalanceAdvised,
  { atMs }: ApplyContext,
): Outcome => {
  if (moves.length > MAX_ADVICE) return reject("invalid", `more than ${MAX_ADVICE} moves are no advice`);
  Object.assign(balancingOf(cluster), { advice: moves, advisedAtMs: atMs });
  return undefined;
};
