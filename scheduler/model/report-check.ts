import { isName } from "../../proto/contract/ids.ts";
import type { Load, Report } from "../../proto/gen/godwit/v1/agent.ts";
import type { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { BUILTIN_ATTRIBUTES, isLabelKey, MAX_LABEL_VALUE } from "./labels.ts";
import { LONGEST_FENCE_MS } from "./lease.ts";
import { isIpv4 } from "./network.ts";

const MAX_TEXT = 256;
const MAX_CPU_MILLIS = 16_384_000;
const MAX_CPU_FLAGS = 1024;
const MAX_FEATURES = 256;
const MAX_INCARNATION = 64;
export const MAX_NODE_LABELS = 64;
/** Of an X25519 public key. */
export const STREAM_KEY_BYTES = 32;
const MAX_BLOCKERS = 32;

const textFields = [
  "kernel",
  "criuVersion",
  "runcVersion",
  "godwitVersion",
  "arch",
  "cgroupMode",
  "checkpointFault",
] as const;

/** What is wrong with labels of a node, or undefined. */
export const nodeLabelsFault = (labels: { readonly [key: string]: string }): string | undefined => {
  const all = Object.entries(labels);
  if (all.length > MAX_NODE_LABELS) return `more than ${MAX_NODE_LABELS} labels`;
  for (const [key, value] of all) {
    if (!isLabelKey(key))
      return `${JSON.stringify(key.slice(0, 80))} is no label name: letters, digits, ".", "_", "/" and "-"`;
    if (BUILTIN_ATTRIBUTES.includes(key)) return `every node has a ${key} already, which is no label`;
    if (value.length > MAX_LABEL_VALUE || value.includes("\0"))
      return `the value of the label ${key} is longer than ${MAX_LABEL_VALUE} characters or holds a NUL`;
  }
  return undefined;
};

/** What is wrong with a node's description of itself, or undefined. It becomes a part of the log, so it is bounded. */
export const nodeInfoFault = (info: NodeInfo): string | undefined => {
  if (!isName(info.name))
    return `${JSON.stringify(info.name.slice(0, 80))} is no node name: use 1 to 63 lower-case letters, digits and dashes`;
  if (info.cpuMillis <= 0 || info.cpuMillis > MAX_CPU_MILLIS)
    return `${info.cpuMillis} thousandths of a cpu cannot be right`;
  const labels = nodeLabelsFault(info.labels);
  if (labels !== undefined) return labels;
  if (!Number.isSafeInteger(info.diskBytes) || info.diskBytes < 0)
    return `a disk of ${info.diskBytes} bytes cannot be right`;
  if (info.memoryBytes <= 0) return "the node says that it has no memory";
  if (!isIpv4(info.underlayAddress))
    return `${JSON.stringify(info.underlayAddress.slice(0, 80))} is no IPv4 address for the other nodes to send to`;
  for (const field of textFields)
    if (info[field].length > MAX_TEXT) return `the field ${field} is longer than ${MAX_TEXT} characters`;
  if (info.cpuFlags.length > MAX_CPU_FLAGS) return `more than ${MAX_CPU_FLAGS} cpu flags`;
  if (info.features.length > MAX_FEATURES) return `more than ${MAX_FEATURES} features`;
  if (info.streamKey.length !== 0 && info.streamKey.length !== STREAM_KEY_BYTES)
    return `a stream key is ${STREAM_KEY_BYTES} bytes, and not ${info.streamKey.length}`;
  for (const text of [...info.cpuFlags, ...info.features])
    if (text.length > MAX_TEXT) return `a cpu flag or feature is longer than ${MAX_TEXT} characters`;
  return undefined;
};

/** Placements are ranked by it, so it has to be numbers. */
const loadFault = (load: Load | undefined): string | undefined => {
  if (load === undefined) return undefined;
  const { cpuMillisUsed, diskBytesFree, load1, memoryBytesUsed, pressure } = load;
  const waits = Object.values(pressure ?? {}).flatMap((averages) =>
    averages === undefined ? [] : [averages.avg10, averages.avg60, averages.avg300],
  );
  if (waits.some((percent) => !(percent >= 0 && percent <= 100)))
    return "a pressure of the report is no share of the time";
  return [cpuMillisUsed, diskBytesFree, load1, memoryBytesUsed].every(
    (value) => value >= 0 && value < Infinity,
  )
    ? undefined
    : "a load of the report is no number";
};

export const reportFault = (report: Report): string | undefined => {
  if (report.info === undefined && report.base === 0) return "the report does not say which node it is of";
  if (report.base !== 0 && report.base >= report.number)
    return "the report continues one that is not older than itself";
  if (report.incarnation === "" || report.incarnation.length > MAX_INCARNATION)
    return "the report carries no usable incarnation";
  if ((report.fenceMs ?? 0) > LONGEST_FENCE_MS)
    return `a fence that closes after ${report.fenceMs} ms is none`;
  if (report.fenceFault.length > 4 * MAX_TEXT) return "what is wrong with the fence is too long";
  for (const { blockers, needs } of report.allocations) {
    if (blockers.length > MAX_BLOCKERS || needs.length > MAX_BLOCKERS)
      return "an allocation of the report has too many blockers";
    for (const { kind, reason } of blockers)
      if (kind.length > MAX_TEXT || reason.length > 4 * MAX_TEXT)
        return "a blocker of the report is too long";
    if (needs.some((need) => need.length > MAX_TEXT)) return "a need of the report is too long";
  }
  return loadFault(report.load) ?? (report.info === undefined ? undefined : nodeInfoFault(report.info));
};
