import { GodwitError } from "../../proto/contract/error.ts";
import { OnFailure, ServiceSpec, UpdateOrder, type UpdatePolicy } from "../../proto/gen/godwit/v1/service.ts";
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { budgetOf } from "./service-policy.ts";
import { checkLabelKey, checkSpec } from "./spec-check.ts";

const MAX_REPLICAS = 10_000;
/** A container's name is the service's with a dash and a number of up to 6 digits, and has to be a DNS label. */
const MAX_NAME = 56;
const MAX_SPREAD_RULES = 8;
const DAY_MS = 86_400_000;

const invalid = (message: string): GodwitError => new GodwitError("invalid", message);

const checkUpdate = (update: UpdatePolicy): void => {
  for (const [what, ms] of [
    ["pause", update.pauseMs],
    ["monitor", update.monitorMs],
    ["timeout", update.timeoutMs],
  ] as const)
    if (!Number.isSafeInteger(ms) || ms < 0 || ms > DAY_MS)
      throw invalid(`the update's ${what} of ${ms} ms is not between 0 and a day`);
  if (!Number.isSafeInteger(update.batch) || update.batch < 0 || update.batch > MAX_REPLICAS)
    throw invalid(`the update's batch of ${update.batch} is not between 1 and ${MAX_REPLICAS}`);
};

/** Throws `invalid` with what is wrong; checks everything that can be said without the cluster's state. */
export const checkServiceSpec = (spec: ServiceSpec): void => {
  const { disruption, name, replicas, spread, template, update } = spec;
  if (template === undefined) throw invalid(`the service ${JSON.stringify(name)} has no container template`);
  if (template.name !== "") throw invalid(`the template of ${name} has a name: its containers get theirs`);
  if (template.node !== "")
    throw invalid(`the template of ${name} is pinned to a node: use a constraint instead`);
  if (name.length > MAX_NAME)
    throw invalid(`the service name ${JSON.stringify(name)} is longer than ${MAX_NAME} letters`);
  checkSpec(ContainerSpec.fromPartial({ ...template, name }));
  if (!Number.isSafeInteger(replicas) || replicas < 0 || replicas > MAX_REPLICAS)
    throw invalid(`${replicas} replicas of ${name}: between 0 and ${MAX_REPLICAS} can be kept`);
  if (spread.length > MAX_SPREAD_RULES)
    throw invalid(`${name} has more than ${MAX_SPREAD_RULES} spread rules`);
  for (const { label } of spread) if (label !== "") checkLabelKey(label);
  if (update !== undefined) checkUpdate(update);
  const { limit } = disruption ?? {};
  if (limit?.$case === "maxUnavailablePercent" && limit.value > 100)
    throw invalid(`${limit.value} % of the replicas of ${name} cannot be unavailable: at most 100 %`);
  if (limit?.$case === "maxUnavailable" && limit.value > MAX_REPLICAS)
    throw invalid(
      `${limit.value} unavailable replicas of ${name} are more than it can have (${MAX_REPLICAS})`,
    );
  if (budgetOf(spec) === 0 && replicas > 0 && update?.order !== UpdateOrder.START_FIRST)
    throw invalid(
      `${name} may have no replica unavailable, so it could never be updated: let the update start the new ones first ("order: start-first"), or allow one ("maxUnavailable: 1")`,
    );
  if (update?.onFailure !== undefined && !Object.values(OnFailure).includes(update.onFailure))
    throw invalid(`${name} has an unknown policy for failed updates`);
};
