/** `run --dry-run`, `node label`, `project` and `placement`. */
import type { SetProjectRequest } from "../../../proto/gen/godwit/v1/api.ts";
import { PlacementStrategy, type ContainerSpec } from "../../../proto/gen/godwit/v1/spec.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { printJson, printList, table, type OutputFormat } from "../output.ts";
import { parseLabelChanges } from "../placement-flags.ts";
import { connectApi, say } from "../session.ts";
import { placementDocument, placementLines, PROJECT_COLUMNS, projectRow } from "../shape/placement.ts";
import { strategyWord } from "../shape/words.ts";
import { WHY_COLUMNS } from "../shape/why.ts";

interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}

/** Ends with exit code 3 when it would wait. */
export async function planRun(spec: ContainerSpec, options: Common): Promise<void> {
  using api = await connectApi(options.api);
  const report = await api.call("planRun", { spec });
  if (options.output === "json") printJson(placementDocument(report));
  else {
    for (const line of placementLines(spec.name, report)) say(line);
    if (report.nodes.length > 0) process.stdout.write(await table(report.nodes, WHY_COLUMNS, true));
  }
  if (report.node === "") throw new ExitWith(EXIT.refused, `${spec.name} would wait: ${report.why}`);
}

export async function labelNode(
  node: string,
  changes: readonly string[],
  options: { readonly api?: string },
): Promise<void> {
  const { remove, set } = parseLabelChanges(changes);
  using api = await connectApi(options.api);
  const summary = await api.call("setNodeLabels", { node, set, remove });
  const labels = Object.entries(summary.labels).map(([key, value]) => `${key}=${value}`);
  say(`${summary.name} has ${labels.length === 0 ? "no labels" : labels.sort().join(" ")}`);
}

export async function projects(options: Common): Promise<void> {
  using api = await connectApi(options.api);
  const list = await api.call("listProjects", {});
  await printList(options.output, list.projects, PROJECT_COLUMNS, projectRow);
}

export async function setProject(request: SetProjectRequest, options: Common): Promise<void> {
  using api = await connectApi(options.api);
  const project = await api.call("setProject", request);
  if (options.output === "json") printJson(projectRow(project));
  else process.stdout.write(await table([project], PROJECT_COLUMNS, true));
}

export async function removeProject(name: string, options: { readonly api?: string }): Promise<void> {
  using api = await connectApi(options.api);
  await api.call("removeProject", { name });
  say(`${name} has no limits any more`);
}

/** Without a strategy it says which one it is. */
export async function placementDefault(
  strategy: PlacementStrategy | undefined,
  options: Common,
): Promise<void> {
  using api = await connectApi(options.api);
  const now =
    strategy === undefined
      ? await api.call("getPlacementDefault", {})
      : await api.call("setPlacementDefault", { strategy });
  const word = strategyWord(now.strategy);
  if (options.output === "json") printJson({ strategy: word });
  else say(`containers that do not say otherwise are placed by the rule "${word}"`);
}
