/**
 * From an encoded state to a cluster. A million containers as decoded messages take gigabytes, so they are decoded some
 * at a time, and become compact at once.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { State } from "../../proto/gen/godwit/v1/log.ts";
import { clusterOf, compacted, type Cluster } from "./cluster.ts";
import { Templates } from "./compact-spec.ts";

/** Of State.containers. */
const CONTAINERS = 6;
const AT_A_TIME_BYTES = 1024 * 1024;

const joined = (parts: readonly Uint8Array[]): Uint8Array => {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};

/** Throws whatever decoding throws. */
export const decodeCluster = (bytes: Uint8Array): Cluster => {
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
  const state = State.decode(joined(rest));
  const templates = new Templates();
  const containers: State["containers"] = Object.create(null) as State["containers"];
  for (const [begin, end] of ranges)
    for (const [id, container] of Object.entries(State.decode(bytes.subarray(begin, end)).containers))
      containers[id] = compacted(state, templates, container);
  return clusterOf({ ...state, containers }, templates);
};
