/** `apply` and `diff`: services as a file describes them. */
import { readFile, stat } from "node:fs/promises";
import { buffer } from "node:stream/consumers";
import type { ServiceChange, ServiceInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { ContainerSpec } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith, isCallFailure } from "../failure.ts";
import { changeDocument, changeLines } from "../manifest/compare.ts";
import { containerFields } from "../manifest/document.ts";
import { MAX_MANIFEST_BYTES, readManifest, type Manifest } from "../manifest/service.ts";
import { printJson, type OutputFormat } from "../output.ts";
import { connectApi, say, waitInterruptibly } from "../session.ts";
import { serviceDetail } from "../shape/service.ts";
import { untilRolledOut } from "./roll-out.ts";

interface FileOptions {
  readonly api?: string;
  readonly output: OutputFormat;
}
export interface ApplyOptions extends FileOptions {
  readonly dryRun: boolean;
  readonly detach: boolean;
  readonly timeoutMs: number;
}

export async function diff(file: string, options: FileOptions): Promise<void> {
  const manifest = await load(file);
  using api = await connectApi(options.api);
  const changes = await planned(api, manifest);
  show(changes, options.output);
  if (changes.some(({ action }) => action !== "none")) throw new ExitWith(EXIT.changes);
}

export async function apply(file: string, options: ApplyOptions): Promise<void> {
  const manifest = await load(file);
  using api = await connectApi(options.api);
  const changes = await planned(api, manifest);
  if (options.output !== "json" || options.dryRun) show(changes, options.output);
  if (options.dryRun) return;
  const services = manifest.services.map(({ spec }, at) => ({
    spec,
    // What has been shown is what is changed; somebody who was quicker is not overwritten unseen.
    expectedVersion: changes[at]?.version ?? 0,
  }));
  await api.call("applyServices", { services, dryRun: false });
  const changed = changes.filter(({ action }) => action !== "none");
  if (options.detach) {
    if (options.output === "json") printJson(changes.map(changeDocument));
    return;
  }
  const names = changed.map(({ name }) => name);
  const hint = (): string =>
    `the roll-out goes on without this command; 'godwit service ls' shows how far it is`;
  const infos = await waitInterruptibly(hint, (signal) =>
    Promise.all(
      changed.map(({ name, version }) =>
        untilRolledOut(api, name, { afterVersion: version, timeoutMs: options.timeoutMs }, signal),
      ),
    ),
  );
  if (options.output === "json") printJson(infos.map(serviceDetail));
  else for (const info of infos) say(summary(info));
  const failed = infos.filter((info, at) => info.state === "paused" || !isAsApplied(info, changed[at]));
  if (failed.length > 0)
    throw new ExitWith(
      EXIT.failed,
      failed.map((info) => `${info.name} is ${info.state}: ${info.message}`).join("; "),
    );
  if (names.length === 0 && options.output !== "json") say("nothing to change");
}

/** Whether its containers are what the file says, and not what they were before. */
const isAsApplied = ({ spec }: ServiceInfo, change: ServiceChange | undefined): boolean => {
  const written = (template: ContainerSpec | undefined): string =>
    template === undefined ? "" : JSON.stringify([containerFields(template), template.imageDigest]);
  return written(spec?.template) === written(change?.after?.template);
};

const summary = (info: ServiceInfo): string =>
  `${info.name} is ${info.state} at revision ${info.revision}: ${info.available} of ${info.spec?.replicas ?? 0} available`;

function show(changes: readonly ServiceChange[], format: OutputFormat): void {
  if (format === "json") printJson(changes.map(changeDocument));
  else for (const line of changes.flatMap(changeLines)) say(line);
}

/** Throws when something is wrong with the file, after saying what and where on standard error. */
async function load(file: string): Promise<Manifest> {
  const name = file === "-" ? "standard input" : file;
  const manifest = readManifest(name, await textOf(file));
  const { problems } = manifest.source;
  if (problems.length === 0) return manifest;
  process.stderr.write(`${manifest.source.describe().join("\n")}\n`);
  throw new ExitWith(
    EXIT.usage,
    `${name} has ${problems.length === 1 ? "an error" : `${problems.length} errors`}; nothing was changed`,
  );
}

async function textOf(file: string): Promise<string> {
  try {
    if (file !== "-" && (await stat(file)).size > MAX_MANIFEST_BYTES)
      throw new GodwitError("invalid", `${file} is larger than ${MAX_MANIFEST_BYTES / 2 ** 20} MiB`);
    const bytes = file === "-" ? await buffer(process.stdin) : await readFile(file);
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    if (error instanceof TypeError) throw new GodwitError("invalid", `${file} is no UTF-8 text`);
    throw error;
  }
}

/** What the cluster says to it; an error names the place of the service that it is about. */
async function planned(api: ApiClient, { services, source }: Manifest): Promise<ServiceChange[]> {
  const request = (those: Manifest["services"]) => ({
    services: those.map(({ spec }) => ({ spec, expectedVersion: undefined })),
    dryRun: true,
  });
  try {
    return (await api.call("applyServices", request(services))).services;
  } catch (error) {
    if (!isCallFailure(error) || services.length === 0) throw error;
    for (const service of services) {
      try {
        await api.call("applyServices", request([service]));
      } catch (own) {
        if (isCallFailure(own) && own.code === error.code)
          own.details = `${source.name}:${service.line}: ${own.details}`;
        throw own;
      }
    }
    throw error;
  }
}
