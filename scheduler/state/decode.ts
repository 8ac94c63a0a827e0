/**
 * From an encoded state to a cluster. A million containers as decoded messages take gigabytes, so they are decoded one
 * by one (in the first format some at a time), and become compact at once.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Container, State, StoredContainer } from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { clusterOf, compacted, keptName, type Cluster } from "./cluster.ts";
import { CompactContainer } from "./compact-container.ts";
import { Templates, type CompactSpec } from "./compact-spec.ts";

/** Of State.containers. */
const CONTAINERS = 6;
const AT_A_TIME_BYTES = 1024 * 1024;

const EMPTY = Container.fromPartial({});

/** Of a StoredState, whose fields come in their canonical order. Throws whatever decoding throws. */
export const decodeCluster = (bytes: Uint8Array): Cluster => {
  let state = State.fromPartial({});
  const templates = new Templates();
  const specs: ((name: string) => CompactSpec)[] = [];
  const containers: State["containers"] = Object.create(null) as State["containers"];
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 1) state = State.decode(reader, reader.uint32());
    else if (field === 2) specs.push(templates.compactor(ContainerSpec.decode(reader, reader.uint32())));
    else if (field === 3) {
      const {
        container: given = EMPTY,
        host,
        name,
        template,
      } = StoredContainer.decode(reader, reader.uint32());
      const compact = CompactContainer.from(given, host);
      compact.spec = specs[template - 1]?.(name);
      const { allocation } = compact;
      if (allocation !== undefined) allocation.node = keptName({ state }, allocation.node);
      containers[given.id] = compact;
    } else reader.skip(type, field);
  }
  return clusterOf({ ...state, containers }, templates);
};

/** Of a State message, as the first format of snapshots had it. Throws whatever decoding throws. */
export const decodeFirstFormat = (bytes: Uint8Array): Cluster => {
  const rest: Uint8Array[] = [];
  const ranges: (readonly [number, number])[] = [];
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const begin = reader.pos;
    const [field, type] = reader.tag();
    reader.skip(type, field);
    const last = ranges.at(-1);
    if (field !== CONTAINERS) rest.push(bytes.subarray(begin, reader.pos));
    else if (last !== undefined && last[1] === begin && begin - last[0] < AT_A_TIME_BYTES)
      ranges[ranges.length - 1] = [last[0], reader.pos];
    else ranges.push([begin, reader.pos]);
  }
  const state = State.decode(Buffer.concat(rest));
  const templates = new Templates();
  const containers: State["containers"] = Object.create(null) as State["containers"];
  for (const [begin, end] of ranges)
    for (const [id, container] of Object.entries(State.decode(bytes.subarray(begin, end)).containers))
      containers[id] = compacted(state, templates, container);
  return clusterOf({ ...state, containers }, templates);
};
