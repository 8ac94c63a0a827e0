/** What a person is told about a service. Pure. */
import type { ContainerInfo, ServiceChange, ServiceInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { RolloutState } from "../../../proto/gen/godwit/v1/log.ts";
import type { ServiceSpec } from "../../../proto/gen/godwit/v1/service.ts";
import type { DeepReadonlyState, ServicePlan } from "../../../scheduler/mod.ts";

type ServiceRecord = DeepReadonlyState["services"][string];

export interface ServiceMember {
  readonly info: ContainerInfo;
  readonly isAvailable: boolean;
  /** Its service has no use for it any more. */
  readonly isLeaving: boolean;
}

const stateOf = (service: ServiceRecord, available: number): string => {
  if (service.removing) return "removing";
  switch (service.rollout?.state) {
    case RolloutState.RUNNING:
      return "rolling-out";
    case RolloutState.ROLLING_BACK:
      return "rolling-back";
    case RolloutState.PAUSED:
      return "paused";
    default: {
      if (available < (service.spec?.replicas ?? 0)) return "degraded";
      return service.rollout?.state === RolloutState.ROLLED_BACK ? "rolled-back" : "steady";
    }
  }
};

/** Why it went back or stands still; else the first thing that is wrong with one of its containers. */
const messageOf = (service: ServiceRecord, members: readonly ServiceMember[], obstacle: string): string => {
  const { failedRevision = 0, failure = "" } = service.rollout ?? {};
  if (failure !== "") return `revision ${failedRevision}: ${failure}`;
  if (obstacle !== "") return `no container can be made: ${obstacle}`;
  for (const { info, isAvailable, isLeaving } of members) {
    if (isAvailable || isLeaving) continue;
    const name = info.spec?.name ?? info.id;
    if (info.message !== "") return `${name}: ${info.message}`;
    if (info.health === "unhealthy") return `${name} is unhealthy: ${info.healthOutput}`;
  }
  return "";
};

export function serviceInfo(
  service: ServiceRecord,
  members: readonly ServiceMember[],
  { disruptionsAllowed, obstacle }: { readonly disruptionsAllowed: number; readonly obstacle: string },
): ServiceInfo {
  const sorted = members.toSorted((a, b) => compare(a.info.spec?.name ?? "", b.info.spec?.name ?? ""));
  const available = sorted.filter(({ isAvailable }) => isAvailable).length;
  return {
    name: service.spec?.name ?? "",
    // The state is changed in place: what leaves must be a copy.
    spec: structuredClone(service.spec) as ServiceSpec | undefined,
    version: service.version,
    revision: service.revision,
    stableRevision: service.stableRevision,
    state: stateOf(service, available),
    message: messageOf(service, sorted, obstacle),
    available,
    updated: sorted.filter(({ info, isLeaving }) => !isLeaving && info.serviceRevision === service.revision)
      .length,
    containers: sorted.map(({ info }) => info),
    revisions: service.history.map(({ atMs, revision, template }) => ({
      revision,
      atMs,
      image: template?.image ?? "",
      imageDigest: template?.imageDigest ?? "",
    })),
    disruptionsAllowed,
    createdAtMs: service.createdAtMs,
  };
}

/** "web-2" before "web-10". */
const compare = (a: string, b: string): number => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);

export const serviceChange = ({ action, after, before, how, name, version }: ServicePlan): ServiceChange => ({
  name,
  action,
  how: [...how],
  version,
  before,
  after,
});
