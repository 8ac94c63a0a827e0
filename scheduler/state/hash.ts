/**
 * The canonical form of a state: protobuf with every map in the order of its keys, cut into pieces so that a large
 * state needs no buffer of its size. The pieces joined are one State message; their SHA-256 is the state's hash. The
 * digest itself is an argument, because this folder imports nothing of Node.
 */
import { Container, State } from "../../proto/gen/godwit/v1/log.ts";
import type { Cluster } from "./cluster.ts";

const PIECE_ENTRIES = 256;

const sorted = <T>(map: { [key: string]: T }): { [key: string]: T } =>
  Object.fromEntries(Object.entries(map).toSorted(([a], [b]) => (a < b ? -1 : 1)));

const withSortedMaps = (container: Container): Container =>
  container.spec === undefined
    ? container
    : {
        ...container,
        spec: { ...container.spec, env: sorted(container.spec.env), labels: sorted(container.spec.labels) },
      };

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
  yield State.encode({ ...state, nodes: {}, images: {}, containers: {}, migrations: {} }).finish();
  yield* pieces(state.nodes, (nodes) => ({ nodes }));
  yield* pieces(state.images, (images) => ({ images }));
  yield* pieces(state.containers, (containers) => ({ containers }), withSortedMaps);
  yield* pieces(state.migrations, (migrations) => ({ migrations }));
}
