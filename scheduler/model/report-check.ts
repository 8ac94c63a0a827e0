import { isName } from "../../proto/contract/ids.ts";
import type { Report } from "../../proto/gen/godwit/v1/agent.ts";
import type { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { LONGEST_FENCE_MS } from "./lease.ts";
import { isIpv4 } from "./network.ts";

const MAX_TEXT = 256;
const MAX_CPU_MILLIS = 16_384_000;
const MAX_CPU_FLAGS = 1024;
const MAX_FEATURES = 256;
const MAX_INCARNATION = 64;
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

/** What is wrong with a node's description of itself, or undefined. It becomes a part of the log, so it is bounded. */
export const nodeInfoFault = (info: NodeInfo): string | undefined => {
  if (!isName(info.name))
    return `${JSON.stringify(info.name.slice(0, 80))} is no node name: use 1 to 63 lower-case letters, digits and dashes`;
  if (info.cpuMillis <= 0 || info.cpuMillis > MAX_CPU_MILLIS)
    return `${info.cpuMillis} thousandths of a cpu cannot be right`;
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

export const reportFault = (report: Report): string | undefined => {
  if (report.info === undefined) return "the report does not say which node it is of";
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
  return nodeInfoFault(report.info);
};
