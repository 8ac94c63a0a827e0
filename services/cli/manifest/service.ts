/** Services as they are written in a file: one YAML document each. */
import { isMap, isScalar, parseAllDocuments } from "yaml";
import {
  OnFailure,
  ServiceSpec,
  UpdateOrder,
  type DisruptionBudget,
  type SpreadRule,
  type UpdatePolicy,
} from "../../../proto/gen/godwit/v1/service.ts";
import { containerOf } from "./container.ts";
import { MapReader } from "./reader.ts";
import { Source } from "./source.ts";

export const ORDERS = {
  "stop-first": UpdateOrder.STOP_FIRST,
  "start-first": UpdateOrder.START_FIRST,
} as const;
export const FAILURES = { rollback: OnFailure.ROLLBACK, pause: OnFailure.PAUSE } as const;

export interface ManifestService {
  readonly spec: ServiceSpec;
  /** Where its document begins. */
  readonly line: number;
}

export interface Manifest {
  /** Not to be used while there are problems. */
  readonly services: readonly ManifestService[];
  readonly source: Source;
}

/** Keeps a slip of the hand (a log file, an image) from being read at length. */
export const MAX_MANIFEST_BYTES = 4 * 2 ** 20;

const NAME = /^[a-z0-9]([a-z0-9-]{0,54}[a-z0-9])?$/;

const update = (map: MapReader): UpdatePolicy => ({
  batch: map.count("batch", "how many are replaced at a time", 1, 10_000) ?? 0,
  pauseMs: map.durationMs("pause") ?? 0,
  order: map.choice("order", ORDERS) ?? UpdateOrder.UNSPECIFIED,
  onFailure: map.choice("onFailure", FAILURES) ?? OnFailure.UNSPECIFIED,
  monitorMs: map.durationMs("monitor") ?? 0,
  timeoutMs: map.durationMs("timeout") ?? 0,
});

const spread = (map: MapReader): SpreadRule => {
  map.require("over", '"node", or the name of a node label');
  const over = map.text("over", '"node", or the name of a node label') ?? "";
  return {
    label: over === "node" ? "" : over,
    maxSkew: map.count("maxSkew", "by how many places may differ", 1, 10_000) ?? 0,
  };
};

const disruption = (map: MapReader): DisruptionBudget => {
  const text = map.text("maxUnavailable", 'a number, or a share such as "25%"');
  if (text === undefined) {
    map.require("maxUnavailable", 'a number, or a share such as "25%"');
    return { limit: undefined };
  }
  const share = /^([0-9]{1,3})\s*%$/.exec(text);
  if (share !== null && Number(share[1]) <= 100)
    return { limit: { $case: "maxUnavailablePercent", value: Number(share[1]) } };
  if (/^[0-9]{1,5}$/.test(text)) return { limit: { $case: "maxUnavailable", value: Number(text) } };
  map.report(
    "maxUnavailable",
    `maxUnavailable: expected a number, or a share such as "25%", found ${JSON.stringify(text)}`,
  );
  return { limit: undefined };
};

const serviceOf = (map: MapReader): ServiceSpec => {
  map.require("name", "what the service is called");
  map.require("container", "what its containers are made of");
  const name = map.text("name", "a name") ?? "";
  if (map.has("name") && !NAME.test(name))
    map.report("name", "name: expected 1 to 56 lower-case letters, digits and dashes, no dash at either end");
  const replicas = map.count("replicas", "how many containers to keep", 0, 10_000) ?? 1;
  const updates = map.within("update", "a mapping with batch, pause, order and onFailure", update);
  const budget = map.within("disruption", "a mapping with maxUnavailable", disruption);
  const none = budget?.limit?.value === 0;
  if (none && replicas > 0 && updates?.order !== UpdateOrder.START_FIRST)
    map.report(
      "disruption",
      'with maxUnavailable 0 it could never be updated: set "order: start-first" under update, or allow one',
    );
  return ServiceSpec.fromPartial({
    name,
    replicas,
    spread: map.each("spread", "a list such as [{over: node}]", spread) ?? [],
    ...(updates === undefined ? {} : { update: updates }),
    ...(budget === undefined ? {} : { disruption: budget }),
    ...template(map),
  });
};

const template = (map: MapReader): Pick<ServiceSpec, "template"> | object => {
  const container = map.within("container", "a mapping with image, command, env, limits, …", containerOf);
  return container === undefined ? {} : { template: container };
};

/** `name` is the file's, for messages. */
export function readManifest(name: string, text: string): Manifest {
  const source = new Source(name, text);
  const services: ManifestService[] = [];
  const lines = new Map<string, number>();
  const documents = parseAllDocuments(text, { lineCounter: source.counter, prettyErrors: false });
  // Without any document the parser answers with an empty list that has fields of its own.
  for (const document of [...documents]) {
    for (const { message, pos } of document.errors) source.report(pos[0], message);
    const { contents } = document;
    const isEmpty = contents === null || (isScalar(contents) && contents.value === null);
    if (document.errors.length > 0 || isEmpty) continue;
    const offset = contents.range[0];
    if (!isMap(contents)) {
      source.report(offset, "expected a service: a mapping with name, replicas and container");
      continue;
    }
    const map = new MapReader(source, document, contents);
    const spec = serviceOf(map);
    map.finish();
    const line = source.lineOf(offset);
    const before = lines.get(spec.name);
    if (before !== undefined && spec.name !== "")
      map.report("name", `there is a service ${spec.name} already, in line ${before}`);
    lines.set(spec.name, line);
    services.push({ spec, line });
  }
  if (services.length === 0 && source.problems.length === 0) source.report(0, "there is no service in it");
  return { services, source };
}
