/** `ps`, `inspect`, `status`, `node ls`, `image ls`, `migrations`: what is there. */
import type { ClusterStatus } from "../../../proto/gen/godwit/v1/api.ts";
import type { ApiClient } from "../api-client.ts";
import { isUnreachable } from "../failure.ts";
import { connectApi } from "../session.ts";
import { printFields, printJson, printList, type OutputFormat } from "../output.ts";
import { statusDocument, statusFields } from "../shape/cluster.ts";
import { containerColumns, containerDetail, containerFields, containerRow } from "../shape/container.ts";
import { imageColumns, imageRow } from "../shape/image.ts";
import { migrationColumns, migrationDetail, migrationFields } from "../shape/migration.ts";
import { NODE_COLUMNS, nodeRow } from "../shape/node.ts";

interface ListOptions {
  readonly api?: string;
  readonly output: OutputFormat;
}

export async function ps(options: ListOptions & { readonly node?: string }): Promise<void> {
  using api = await connectApi(options.api);
  const { containers } = await api.call("listContainers", { node: options.node ?? "" });
  await printList(options.output, containers, containerColumns(Date.now()), containerRow);
}

export async function inspect(nameOrId: string, options: ListOptions): Promise<void> {
  using api = await connectApi(options.api);
  const info = await api.call("inspectContainer", { nameOrId });
  if (options.output === "json") printJson(containerDetail(info));
  else await printFields(containerFields(info, Date.now()));
}

export async function status(options: ListOptions): Promise<void> {
  using api = await connectApi(options.api);
  const answer = await clusterStatus(api);
  if (options.output === "json") printJson(statusDocument(answer));
  else await printFields(statusFields(answer));
}

/** How long the leader is looked for before others are asked for what they know. */
const LEADER_MS = 6_000;

async function clusterStatus(api: ApiClient): Promise<ClusterStatus> {
  try {
    return await api.call("status", {}, LEADER_MS);
  } catch (error) {
    if (!isUnreachable(error)) throw error;
    const answers = await api.callEach("status", { local: true });
    const [best] = answers.toSorted((a, b) => b.logSequence - a.logSequence);
    if (best === undefined) throw error;
    const doubt = `no leader answers; this is what the scheduler ${best.answeredBy ?? "that was asked"} knows`;
    return { ...best, warnings: [doubt, ...best.warnings] };
  }
}

export async function nodes(options: ListOptions): Promise<void> {
  using api = await connectApi(options.api);
  const answer = await api.call("listNodes", {});
  await printList(options.output, answer.nodes, NODE_COLUMNS, nodeRow);
}

export async function images(options: ListOptions): Promise<void> {
  using api = await connectApi(options.api);
  const answer = await api.call("listImages", {});
  await printList(options.output, answer.images, imageColumns(Date.now()), imageRow);
}

/** With an id one document, without one a list. */
export async function migrations(
  id: string | undefined,
  options: ListOptions & { readonly container?: string; readonly limit: number },
): Promise<void> {
  using api = await connectApi(options.api);
  const request = { id: id ?? "", container: options.container ?? "", limit: options.limit };
  const answer = await api.call("listMigrations", request);
  const [only] = answer.migrations;
  if (id !== undefined && only !== undefined && options.output !== "wide")
    if (options.output === "json") printJson(migrationDetail(only));
    else await printFields(migrationFields(only, Date.now()));
  else await printList(options.output, answer.migrations, migrationColumns(Date.now()), migrationDetail);
}
