/** Commands about placing at random, and rules of containers that meet. */
import * as fc from "fast-check";
import { Project, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec, PlacementStrategy, PreemptionPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { command } from "../plan/command.ts";
import { idOf, type Drive } from "./drive.ts";

const web = [{ key: "app", value: "web" }];
const port = (protocol: string) => ({ hostPort: 80, containerPort: 8080, protocol });

/** At most one kind of rule each, so that most containers can still be placed somewhere. */
export const anyRules: fc.Arbitrary<Partial<ContainerSpec>> = fc
  .record({
    rule: fc.constantFrom<Parameters<typeof ContainerSpec.fromPartial>[0]>(
      {},
      { labels: { app: "web" } },
      { labels: { app: "web" }, antiAffinity: web },
      { labels: { app: "web" }, antiAffinity: web },
      { labels: { app: "web" }, ports: [port("tcp")] },
      { antiAffinity: web, ports: [port("")] },
      { affinity: web },
      { ports: [port("udp"), port("")] },
      { constraints: [{ key: "zone", value: "a", unequal: false }] },
      { constraints: [{ key: "zone", value: "a", unequal: true }] },
      { project: "team" },
    ),
    priority: fc.constantFrom(0, 0, 1, 2),
    preemption: fc.constantFrom(PreemptionPolicy.MOVE, PreemptionPolicy.STOP, PreemptionPolicy.NEVER),
  })
  .map(({ preemption, priority, rule }) => {
    const { affinity, antiAffinity, constraints, labels, ports, project } = ContainerSpec.fromPartial(rule);
    return { affinity, antiAffinity, constraints, labels, ports, project, preemption, priority };
  });

const node = fc.constantFrom("n1", "n2", "n3");
const id = fc.integer({ min: 1, max: 7 }).map(idOf);
export const placementCommands: fc.Arbitrary<Command>[] = [
  fc
    .record({
      node,
      set: fc.constantFrom<{ [key: string]: string }>({}, { zone: "a" }, { zone: "b" }, { "a b": "" }),
      remove: fc.constantFrom<string[]>([], ["zone"]),
    })
    .map((value) => command("nodeLabelsSet", value)),
  fc
    .record({ containers: fc.constantFrom(0, 1, 2), memoryBytes: fc.constantFrom(0, 1 << 20) })
    .map((limits) => command("projectSet", { project: Project.fromPartial({ name: "team", ...limits }) })),
  fc.constant(command("projectRemoved", { name: "team" })),
  fc
    .constantFrom(PlacementStrategy.PACK, PlacementStrategy.SPREAD)
    .map((strategy) => command("placementDefaultSet", { strategy })),
  fc
    .record({ containerId: id, node, epoch: fc.integer({ min: 1, max: 4 }), forContainerId: id })
    .map((value) => command("containerPreempted", value)),
  fc
    .record({ containerId: id, node, epoch: fc.integer({ min: 1, max: 4 }) })
    .map((value) => command("allocationReleased", value)),
];

/** With what only a well informed sender knows put right. */
export const fitPlacement = (drive: Drive, { command: raw }: Command): Command | undefined => {
  if (raw?.$case !== "containerPreempted" && raw?.$case !== "allocationReleased") return undefined;
  const { containers } = drive.cluster.state;
  const { placement, unplaced } = drive.cluster.index;
  if (raw.$case === "allocationReleased") {
    const [containerId = raw.value.containerId] = placement.preempted;
    const { epoch = 0, node = "" } = containers[containerId]?.allocation ?? {};
    return command(raw.$case, { containerId, node, epoch });
  }
  const { epoch = 0, node = "" } = containers[raw.value.containerId]?.allocation ?? {};
  const [forContainerId = raw.value.forContainerId] = unplaced;
  return command(raw.$case, { ...raw.value, node, epoch, forContainerId });
};
