/**
 * The canonical form of a state: protobuf with every map in the order of its keys, cut into pieces so that a large
 * state needs no buffer of its size. The pieces joined are one State message; their SHA-256 is the state's hash. The
 * digest itself is an argument, because this folder imports nothing of Node.
 */
import { State, type Node, type Service } from "../../proto/gen/godwit/v1/log.ts";
import type { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import type { Cluster } from "./cluster.ts";
import { sorted } from "./compact-spec.ts";

const PIECE_ENTRIES = 256;

const sortedSpec = <S extends ContainerSpec | undefined>(spec: S): S =>
  spec === undefined ? spec : { ...spec, env: sorted(spec.env), labels: sorted(spec.labels) };

const sortedService = (service: Service): Service => ({
  ...service,
  spec:
    service.spec === undefined ? undefined : { ...service.spec, template: sortedSpec(service.spec.template) },
  history: service.history.map((one) => ({ ...one, template: sortedSpec(one.template) })),
});

const withSortedLabels = (node: Node): Node => ({
  ...node,
  labels: sorted(node.labels),
  info: node.info === undefined ? undefined : { ...node.info, labels: sorted(node.info.labels) },
});

function* pieces<T>(
  map: { [key: string]: T },
  wrap: (part: { [key: string]: T }) => Partial<State>,
  canonical: (value: T) => T = (value) => value,
): Generator<Uint8Array> {
  const keys = Object.keys(map).toSorted();
  for (let at = 0; at < keys.length; at += PIECE_ENTRIES) {
    const part: { [key: string]: T } = {};
    for (const key of keys.slice(at, at + PIECE_ENTRIES)) {
      const value = map[key];
      if (value !== undefined) part[key] = canonical(value);
    }
    yield State.encode({ ...EMPTY, ...wrap(part) }).finish();
  }
}

const EMPTY = State.fromPartial({});

export function* canonicalPieces({ state }: Pick<Cluster, "state">): Generator<Uint8Array> {
  yield State.encode({
    ...state,
    nodes: {},
    images: {},
    containers: {},
    migrations: {},
    services: {},
    projects: sorted(state.projects),
    checkpoints: {},
  }).finish();
  yield* pieces(state.nodes, (nodes) => ({ nodes }), withSortedLabels);
  yield* pieces(state.images, (images) => ({ images }));
  yield* pieces(state.containers, (containers) => ({ containers }));
  yield* pieces(state.migrations, (migrations) => ({ migrations }));
  yield* pieces(state.services, (services) => ({ services }), sortedService);
  yield* pieces(state.checkpoints, (checkpoints) => ({ checkpoints }));
}
