/** Calls of the API about placing: plans, node labels, projects, the cluster's default. */
import type {
  ListProjectsResponse,
  NodeSummary,
  PlacementDefault,
  PlacementReport,
  ProjectInfo,
  ProjectRef,
  RunRequest,
  SetNodeLabelsRequest,
  SetProjectRequest,
} from "../../../proto/gen/godwit/v1/api.ts";
import { PlacementStrategy } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { ProjectView, Scheduler } from "../../../scheduler/mod.ts";
import { findNode } from "../find.ts";
import { nodeSummary } from "../view/node.ts";

export class PlacementService {
  readonly #scheduler: Scheduler;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  async planRun(request: RunRequest): Promise<PlacementReport> {
    if (request.spec === undefined) throw new GodwitError("invalid", "the request has no spec");
    const view = this.#scheduler.placement.planPlacement(request.spec);
    return {
      node: view.node ?? "",
      why: view.why,
      nodes: view.nodes.map(({ fits, node, reasons, remark }) => ({
        node,
        canMove: fits,
        reasons: [...reasons],
        remark,
      })),
      reasons: view.reasons.map((count) => ({ ...count })),
      preemption: view.preemption.map(({ container, node, to }) => ({ container, node, to: to ?? "" })),
    };
  }

  async setNodeLabels({ node, remove, set }: SetNodeLabelsRequest): Promise<NodeSummary> {
    const { name } = findNode(this.#scheduler.state(), node);
    await this.#scheduler.placement.setNodeLabels(name, set, remove);
    const state = this.#scheduler.state();
    const found = Object.hasOwn(state.nodes, name) ? state.nodes[name] : undefined;
    if (found === undefined) throw new GodwitError("not-found", `the node ${name} was removed meanwhile`);
    return nodeSummary(state, name, found, this.#scheduler.runtime().node(name));
  }

  async listProjects(): Promise<ListProjectsResponse> {
    return { projects: this.#scheduler.placement.projects().map(projectInfo) };
  }

  async setProject({ name, ...limits }: SetProjectRequest): Promise<ProjectInfo> {
    return projectInfo(await this.#scheduler.placement.setProject(name, definedOf(limits)));
  }

  async removeProject({ name }: ProjectRef): Promise<ProjectInfo> {
    await this.#scheduler.placement.removeProject(name);
    const project = this.#scheduler.placement.projects().find((one) => one.name === name);
    return project === undefined ? { name, limits: undefined, used: undefined } : projectInfo(project);
  }

  async placementDefault(): Promise<PlacementDefault> {
    const { defaultStrategy } = this.#scheduler.state();
    return {
      strategy:
        defaultStrategy === PlacementStrategy.PACK ? PlacementStrategy.PACK : PlacementStrategy.SPREAD,
    };
  }

  async setPlacementDefault({ strategy }: PlacementDefault): Promise<PlacementDefault> {
    if (strategy !== PlacementStrategy.PACK && strategy !== PlacementStrategy.SPREAD)
      throw new GodwitError("invalid", "the default is to spread or to pack");
    await this.#scheduler.placement.setPlacementDefault(strategy);
    return this.placementDefault();
  }
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };
const definedOf = <T extends object>(given: T): Defined<T> =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Defined<T>;

const projectInfo = ({ limits, name, used }: ProjectView): ProjectInfo => ({
  name,
  limits: { ...limits },
  used: { ...used },
});
