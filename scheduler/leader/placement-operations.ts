/** What the API asks for about placing; `apply` has the last word. */
import { GodwitError } from "../../proto/contract/error.ts";
import { isName } from "../../proto/contract/ids.ts";
import { Container, type Command } from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec, type PlacementStrategy } from "../../proto/gen/godwit/v1/spec.ts";
import { checkSpec } from "../model/spec-check.ts";
import { command } from "../plan/command.ts";
import type { Seen } from "../plan/movable.ts";
import { viewPlacement, type PlacementView } from "../plan/placement/view.ts";
import type { PlacementScheduling, ProjectShare, ProjectView } from "../public-placement.ts";
import type { Cluster } from "../state/cluster.ts";
import { projectUse, quotaCheck } from "../state/quota.ts";
import type { Outcome } from "../state/rejection.ts";
import { asRequested } from "./request.ts";

const NO_LIMITS: ProjectShare = { memoryBytes: 0, cpuMillis: 0, containers: 0, diskBytes: 0 };

const allow = (outcome: Outcome): void => {
  if (outcome !== undefined) throw new GodwitError(outcome.code, outcome.message);
};

export class PlacementOperations implements PlacementScheduling {
  readonly #cluster: Cluster;
  readonly #proposeCommand: (command: Command) => Promise<Outcome>;
  readonly #seen: () => Seen;

  constructor(cluster: Cluster, propose: (command: Command) => Promise<Outcome>, seen: () => Seen) {
    this.#cluster = cluster;
    this.#proposeCommand = propose;
    this.#seen = seen;
  }

  async #propose(proposed: Command): Promise<void> {
    allow(await this.#proposeCommand(asRequested(proposed)));
  }

  planPlacement(given: ContainerSpec): PlacementView {
    checkSpec(given);
    const { index, state } = this.#cluster;
    const image = state.images[given.image];
    if (image === undefined)
      throw new GodwitError(
        "not-found",
        `there is no image ${given.image}: import it first ("godwit image import")`,
      );
    if (given.node !== "" && state.nodes[given.node] === undefined)
      throw new GodwitError("not-found", `there is no node ${given.node}: "godwit node ls" lists them`);
    if (index.idByName.has(given.name))
      throw new GodwitError(
        "exists",
        `there is a container named ${given.name} already: remove it or choose another name`,
      );
    allow(quotaCheck(this.#cluster, given));
    const spec = ContainerSpec.fromPartial({ ...given, imageDigest: image.digest });
    return viewPlacement(this.#cluster, this.#seen(), Container.fromPartial({ spec }));
  }

  async setNodeLabels(
    node: string,
    set: { readonly [key: string]: string },
    remove: readonly string[],
  ): Promise<void> {
    if (this.#cluster.state.nodes[node] === undefined)
      throw new GodwitError("not-found", `there is no node ${node}: "godwit node ls" lists them`);
    await this.#propose(command("nodeLabelsSet", { node, set: { ...set }, remove: [...remove] }));
  }

  #project(name: string): ProjectView {
    const limits = { ...NO_LIMITS, ...this.#cluster.state.projects[name] };
    return { name, limits, used: { ...projectUse(this.#cluster, name) } };
  }

  projects(): ProjectView[] {
    const { index, state } = this.#cluster;
    const names = new Set([...Object.keys(state.projects), ...index.placement.projects.keys()]);
    return [...names].sort().map((name) => this.#project(name));
  }

  async setProject(name: string, limits: Partial<ProjectShare>): Promise<ProjectView> {
    if (!isName(name))
      throw new GodwitError(
        "invalid",
        `${JSON.stringify(name.slice(0, 80))} is no project name: use 1 to 63 lower-case letters, digits and dashes`,
      );
    const { containers, cpuMillis, diskBytes, memoryBytes } = { ...this.#project(name).limits, ...limits };
    await this.#propose(
      command("projectSet", { project: { name, containers, cpuMillis, diskBytes, memoryBytes } }),
    );
    return this.#project(name);
  }

  async removeProject(name: string): Promise<void> {
    await this.#propose(command("projectRemoved", { name }));
  }

  async setPlacementDefault(strategy: PlacementStrategy): Promise<void> {
    await this.#propose(command("placementDefaultSet", { strategy }));
  }
}
