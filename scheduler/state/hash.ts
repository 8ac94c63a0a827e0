/**
 * The canonical form of a state: protobuf with every map in the order of its keys, cut into pieces so that a large
 * state needs no buffer of its size. The pieces joined are one StoredState message; their SHA-256 is the state's hash.
 * The digest itself is an argument, because this folder imports nothing of Node.
 */
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { State, StoredContainer, type Node, type Service } from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { compacted, type Cluster } from "./cluster.ts";
import { CompactSpec, sorted, Templates } from "./compact-spec.ts";

/** Of StoredState: fields with their wire type. */
const REST_TAG = (1 << 3) | 2;
const TEMPLATE_TAG = (2 << 3) | 2;
const CONTAINER_TAG = (3 << 3) | 2;
const PIECE_BYTES = 256 * 1024;
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

function* statePieces({ state }: Pick<Cluster, "state">, withContainers: boolean): Generator<Uint8Array> {
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
  if (withContainers) yield* pieces(state.containers, (containers) => ({ containers }));
  yield* pieces(state.migrations, (migrations) => ({ migrations }));
  yield* pieces(state.services, (services) => ({ services }), sortedService);
  yield* pieces(state.checkpoints, (checkpoints) => ({ checkpoints }));
}

/** Numbers templates in the order in which they are first used, those of the same content as one. */
class Numbering {
  readonly #byTemplate = new Map<ContainerSpec, number>();
  readonly #byContent = new Map<string, number>();

  /** `told` gets each that has not been there yet. */
  of(template: ContainerSpec, told: (template: ContainerSpec) => void): number {
    let number = this.#byTemplate.get(template);
    if (number !== undefined) return number;
    // Who wrote its maps in another order may have the same one as another object.
    const content = JSON.stringify(template);
    number = this.#byContent.get(content);
    if (number === undefined) {
      this.#byContent.set(content, (number = this.#byContent.size + 1));
      told(template);
    }
    this.#byTemplate.set(template, number);
    return number;
  }
}

export function* canonicalPieces({ state }: Pick<Cluster, "state">): Generator<Uint8Array> {
  const rest = new BinaryWriter();
  for (const piece of statePieces({ state }, false)) rest.raw(piece);
  const writer = new BinaryWriter();
  writer.uint32(REST_TAG).bytes(rest.finish());
  let bytes = Infinity;
  const numbering = new Numbering();
  const tell = (template: ContainerSpec): void => {
    const encoded = ContainerSpec.encode(template).finish();
    bytes += encoded.length;
    writer.uint32(TEMPLATE_TAG).bytes(encoded);
  };
  const templates = new Templates();
  for (const id of Object.keys(state.containers).toSorted()) {
    const given = state.containers[id];
    if (given === undefined) continue;
    if (bytes >= PIECE_BYTES) {
      yield writer.finish();
      bytes = 0;
    }
    const container = compacted(state, templates, given);
    const { spec } = container;
    const template = spec instanceof CompactSpec ? numbering.of(spec.template, tell) : 0;
    const { host } = container;
    const one = StoredContainer.encode(
      { container: container.bare(), name: spec?.name ?? "", template, host },
      scratch,
    ).finish();
    bytes += one.length;
    writer.uint32(CONTAINER_TAG).bytes(one);
  }
  yield writer.finish();
}

/** Keeps its buffer from one container to the next. */
const scratch = new BinaryWriter();

/** As the first format of snapshots had it: one State message. */
export const firstFormatPieces = (cluster: Pick<Cluster, "state">): Iterable<Uint8Array> =>
  statePieces(cluster, true);
