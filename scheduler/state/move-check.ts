/** Which container may be moved where: the one table that the API, the drain and `apply` all ask. */
import { AllocationState, DesiredState, NodeState, type Container } from "../../proto/gen/godwit/v1/log.ts";
import { MigrationMode, MigrationPolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { nameOf, type Cluster } from "./cluster.ts";
import { demandOf } from "./fit/demand.ts";
import { obstaclesOf, spotOf } from "./fit/fit.ts";
import { reject, type Outcome, type Rejection } from "./rejection.ts";

const notRunning = (container: Container): string => {
  const allocation = container.allocation;
  switch (allocation?.state) {
    case AllocationState.EXITED:
      return `is stopped (it exited with code ${allocation.exitCode})`;
    case AllocationState.FAILED:
      return `has failed${allocation.message === "" ? "" : ` (${allocation.message})`}`;
    case AllocationState.FROZEN:
      return "is frozen";
    default:
      return "has not started yet";
  }
};

/** Whether the container can leave the node that it is on, apart from where to. `force` overrides its policy. */
export const leaveCheck = (cluster: Cluster, container: Container, force: boolean): Outcome => {
  const name = nameOf(container);
  const allocation = container.allocation;
  if (container.removing) return reject("refused", `${name} is being removed`);
  if (container.migrationId !== "") {
    const to = cluster.state.migrations[container.migrationId]?.to ?? "another node";
    return reject("refused", `${name} is already moving to ${to} (migration ${container.migrationId})`);
  }
  if (allocation === undefined)
    return reject(
      "refused",
      `${name} has no node yet: ${container.placementFailure || "it is being placed"}`,
    );
  const from = cluster.state.nodes[allocation.node];
  if (from === undefined || from.state === NodeState.LOST)
    return reject("refused", `${name} cannot be moved: its node ${allocation.node} is lost`);
  if (allocation.state !== AllocationState.RUNNING)
    return reject(
      "refused",
      `${name} ${notRunning(container)}: only a running container can be moved; start it first`,
    );
  if (container.desired !== DesiredState.RUNNING) return reject("refused", `${name} is being stopped`);
  if (cluster.index.placement.preempted.has(container.id))
    return reject("refused", `${name} is being stopped to make room for ${container.preemption?.forName}`);
  const policy = container.spec?.migration;
  if (!force && policy === MigrationPolicy.NEVER)
    return reject("refused", `${name} has the migration policy "never"`);
  return undefined;
};

/** Everything that keeps the node from taking the container. `needs`: what it uses of its kernel. */
export const targetReasons = (
  cluster: Cluster,
  container: Container,
  to: string,
  mode: MigrationMode,
  needs: readonly string[] = [],
): Rejection[] => {
  const node = cluster.state.nodes[to];
  if (node === undefined) return [reject("not-found", `there is no node ${to}`)];
  if (container.allocation?.node === to)
    return [reject("refused", `${nameOf(container)} is already on ${to}`)];
  return obstaclesOf(demandOf(cluster, container, { mode, needs }), spotOf(cluster, to, node)).map(
    ({ code, message }) => reject(code, message),
  );
};

export const targetCheck = (
  cluster: Cluster,
  container: Container,
  to: string,
  mode: MigrationMode,
): Outcome => targetReasons(cluster, container, to, mode)[0];

const RESOLVED: Partial<Record<MigrationMode, MigrationMode>> = {
  [MigrationMode.UNSPECIFIED]: MigrationMode.PRECOPY,
  [MigrationMode.AUTO]: MigrationMode.PRECOPY,
  [MigrationMode.PRECOPY]: MigrationMode.PRECOPY,
  [MigrationMode.CHECKPOINT]: MigrationMode.CHECKPOINT,
  [MigrationMode.COLD]: MigrationMode.COLD,
  // Never by itself: a link that is lost for good would cost the container.
  [MigrationMode.POSTCOPY]: MigrationMode.POSTCOPY,
};

const isLeftToUs = (mode: MigrationMode): boolean =>
  mode === MigrationMode.AUTO || mode === MigrationMode.UNSPECIFIED;

/** The mode that a request comes down to for a container of this policy, or undefined where there is no such mode yet. */
export const resolveMode = (mode: MigrationMode, policy?: MigrationPolicy): MigrationMode | undefined =>
  policy === MigrationPolicy.COLD && isLeftToUs(mode) ? MigrationMode.COLD : RESOLVED[mode];

/** A container that its policy has stopped and started again by a move does not take part in a live one. */
export const modeCheck = (container: Container, mode: MigrationMode, force: boolean): Outcome =>
  container.spec?.migration === MigrationPolicy.COLD && mode !== MigrationMode.COLD && !force
    ? reject(
        "refused",
        `${nameOf(container)} has the migration policy "cold": it is moved by a stop and a start (--mode cold), and not live`,
      )
    : undefined;
