/** Which container goes on elsewhere when its node is lost. */
import {
  AllocationState,
  DesiredState,
  NodeState,
  type Allocation,
  type Container,
  type Node,
} from "../../proto/gen/godwit/v1/log.ts";
import { FailoverPolicy, RestartPolicy, type ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";

/** Why the container waits for its node instead; undefined: it is started elsewhere. */
export const whyItWaits = (container: {
  readonly desired: Container["desired"];
  readonly allocation?: Pick<Allocation, "state" | "exitCode"> | undefined;
  readonly spec?: Pick<ContainerSpec, "failover" | "restart"> | undefined;
}): string | undefined => {
  const { allocation, desired, spec } = container;
  if (desired !== DesiredState.RUNNING) return "it is to be stopped";
  if (spec?.failover === FailoverPolicy.NEVER) return 'its failover policy is "never"';
  if (spec?.restart === RestartPolicy.NEVER) return 'its restart policy is "never"';
  const hasSucceeded = allocation?.state === AllocationState.EXITED && allocation.exitCode === 0;
  return spec?.restart === RestartPolicy.ON_FAILURE && hasSucceeded ? "it had ended well" : undefined;
};

/** Nothing runs on the node any more, as far as its fence can be trusted. */
export const isFenced = (node: Node): boolean => node.state === NodeState.LOST && node.fenced;

/** It has no node, or none that it can go on at. */
export const isHomeless = (nodes: { readonly [name: string]: Node }, container: Container): boolean => {
  const { allocation } = container;
  if (allocation === undefined) return true;
  const node = nodes[allocation.node];
  return node === undefined || (isFenced(node) && whyItWaits(container) === undefined);
};
