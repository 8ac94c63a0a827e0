import { RolloutState, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { updateRules } from "../model/service-policy.ts";
import { nameOf, type Cluster } from "../state/cluster.ts";
import { happening, type Happening } from "./happening.ts";

/** What a command about services means to an operator; see happeningsOf. */
export const serviceHappenings = ({ state }: Cluster, command: Command["command"]): Happening[] => {
  const containerName = (id: string): string => {
    const container = state.containers[id];
    return container === undefined ? id : nameOf(container);
  };
  switch (command?.$case) {
    case "servicesApplied":
      return command.value.services.map(({ spec }) => {
        const name = spec?.name ?? "";
        const kind = state.services[name] === undefined ? "service.created" : "service.changed";
        return happening(kind, name, `${spec?.replicas ?? 0} of ${spec?.template?.image ?? ""}`);
      });
    case "serviceScaled": {
      const { name, replicas } = command.value;
      return [
        happening("service.scaled", name, `from ${state.services[name]?.spec?.replicas ?? 0} to ${replicas}`),
      ];
    }
    case "serviceRolledBack":
      return [happening("service.rolled-back", command.value.name, `to revision ${command.value.revision}`)];
    case "serviceRolloutEnded": {
      const { failure, name, revision } = command.value;
      const service = state.services[name];
      const isBack = service?.rollout?.state === RolloutState.ROLLING_BACK;
      if (failure === "")
        return [
          happening("service.rolled-out", name, `revision ${revision}${isBack ? ", back where it was" : ""}`),
        ];
      const stable = service?.stableRevision ?? 0;
      const goesBack =
        !isBack && stable !== 0 && stable !== revision && service?.spec !== undefined
          ? updateRules(service.spec).rollsBack
          : false;
      const then = goesBack ? `it goes back to revision ${stable}` : "it stands still";
      return [happening("service.failed", name, `revision ${revision}: ${failure}; ${then}`)];
    }
    case "serviceRemoveRequested":
      return [happening("service.removing", command.value.name)];
    case "serviceRemoved":
      return [happening("service.removed", command.value.name)];
    case "serviceContainerCreated":
      return [happening("container.created", command.value.name, `for the service ${command.value.service}`)];
    case "serviceContainerRetired": {
      const { service = "" } = state.containers[command.value.id] ?? {};
      return [happening("container.retired", containerName(command.value.id), `by its service ${service}`)];
    }
    default:
      return [];
  }
};
