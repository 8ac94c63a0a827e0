import type { Container, Service } from "../../proto/gen/godwit/v1/log.ts";
import { templateChange, type TemplateChange } from "../model/service-policy.ts";
import type { Cluster } from "../state/cluster.ts";

/** A service's containers by what they are to it. */
export interface Members {
  /** All of them, those included that are being removed. */
  readonly count: number;
  /** Not on their way out: `current` and `old` and `amendable`. */
  readonly active: readonly Container[];
  /** Of the present revision. */
  readonly current: readonly Container[];
  /** To be replaced for the present revision. */
  readonly old: readonly Container[];
  /** Can take over the present revision as they are. */
  readonly amendable: readonly Container[];
  /** Told to stop, and then to be removed. */
  readonly retiring: readonly Container[];
  /** Being removed. */
  readonly leaving: readonly Container[];
}

export const membersOf = ({ index, state }: Cluster, name: string, service: Service): Members => {
  const all = [...(index.ofService.get(name) ?? [])].flatMap((id) => state.containers[id] ?? []);
  const active: Container[] = [];
  const current: Container[] = [];
  const old: Container[] = [];
  const amendable: Container[] = [];
  const retiring: Container[] = [];
  const leaving: Container[] = [];
  const template = service.spec?.template;
  /** All containers of one revision differ from the template in the same way. */
  const changes = new Map<number, TemplateChange>();
  for (const container of all) {
    if (container.removing) leaving.push(container);
    else if (container.retiring) retiring.push(container);
    else {
      active.push(container);
      const { serviceRevision, spec } = container;
      if (serviceRevision === service.revision) {
        current.push(container);
        continue;
      }
      let change = changes.get(serviceRevision);
      if (change === undefined && spec !== undefined && template !== undefined)
        changes.set(serviceRevision, (change = templateChange(spec, template)));
      (change === "rolling" ? old : amendable).push(container);
    }
  }
  return { count: all.length, active, current, old, amendable, retiring, leaving };
};
