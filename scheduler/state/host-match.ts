/** Whether what runs on one host can go on, in the middle of its work, on another. Pure. */
import type { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { someOf } from "../model/quantity.ts";

/**
 * CPU flags that a program may choose its code by, as /proc/cpuinfo names them. The others say what the kernel makes of
 * the CPU (timers, virtualization, mitigations) and differ between kernels on one and the same CPU.
 */
const INSTRUCTIONS =
  /^(fpu|mmx.*|3dnow.*|sse.*|ssse3|pni|avx.*|amx.*|fma4?|f16c|aes|vaes|v?pclmulqdq|gfni|sha.*|sm[34]|popcnt|abm|lzcnt|bmi[12]|tbm|xop|movbe|movdiri|movdir64b|adx|rdrand|rdseed|rdtscp?|rdpid|fsgsbase|xsave.*|xgetbv1|fxsr.*|cmov|cx8|cx16|cmpccxadd|clflush.*|clwb|clzero|cldemote|prefetch.*|erms|fsrm|fsrc|fsrs|fzrm|lahf_lm|rtm|hle|mpx|ospke|waitpkg|serialize|tsxldtrk|enqcmd.*|ptwrite|misalignsse|monitorx|mwaitx|user_shstk|ibt|lam|uintr|apx.*|la57)$/;

const MISSING_SHOWN = 5;

/** Of hosts with equal ones nothing needs to be compared; most hosts of a cluster have. */
const signatures = new WeakMap<NodeInfo, string>();
const signatureOf = (info: NodeInfo): string => {
  let signature = signatures.get(info);
  if (signature === undefined) {
    const instructions = info.cpuFlags.filter((flag) => INSTRUCTIONS.test(flag));
    signature = JSON.stringify([info.arch, info.criuVersion, info.checkpointFault, instructions]);
    signatures.set(info, signature);
  }
  return signature;
};

/** Whether they are sure to have no `hostDifferences`; cheap enough to be asked of every node. */
export const isAlike = (from: NodeInfo, to: NodeInfo): boolean =>
  from === to || (from.checkpointFault === "" && signatureOf(from) === signatureOf(to));

const missingInstructions = (from: NodeInfo, to: NodeInfo): string[] => {
  const there = new Set(to.cpuFlags);
  return from.cpuFlags.filter((flag) => INSTRUCTIONS.test(flag) && !there.has(flag));
};

/** Why what ran on `from` cannot even be started on `to`. */
export const otherArchitecture = (from: NodeInfo, to: NodeInfo): string | undefined =>
  from.arch === to.arch
    ? undefined
    : `node ${to.name} has another architecture (${to.arch}, ${from.name} has ${from.arch})`;

/** Why nothing that runs on `from` can be moved to `to`, in an operator's words; empty: it can. */
export const hostDifferences = (from: NodeInfo, to: NodeInfo): string[] => {
  const reasons: string[] = [];
  const foreign = otherArchitecture(from, to);
  if (foreign !== undefined) reasons.push(foreign);
  else {
    const missing = missingInstructions(from, to);
    if (missing.length > 0)
      reasons.push(
        `the CPU of node ${to.name} lacks ${someOf(missing, MISSING_SHOWN)}, which a program that runs on ${from.name} may be using: ` +
          `move it to a node with that, or remove it and run it anew on ${to.name}`,
      );
  }
  if (from.checkpointFault !== "")
    reasons.push(
      `CRIU and the kernel of node ${from.name} (${from.criuVersion}, ${from.kernel}) do not go together (${from.checkpointFault}): run deploy/setup.sh there`,
    );
  if (to.checkpointFault !== "")
    reasons.push(
      `CRIU and the kernel of node ${to.name} (${to.criuVersion}, ${to.kernel}) do not go together (${to.checkpointFault}): run deploy/setup.sh there`,
    );
  if (from.criuVersion !== to.criuVersion)
    reasons.push(
      `node ${to.name} has CRIU ${to.criuVersion} and ${from.name} has ${from.criuVersion}: install the same version on both (deploy/setup.sh) and restart the agent`,
    );
  return reasons;
};

/** What the container uses of its kernel (as its node reports) and the other kernel has not. */
export const missingFeatures = (needs: readonly string[], to: NodeInfo): string[] =>
  needs
    .filter((need) => !to.features.includes(need))
    .map((need) =>
      need === "ipv6"
        ? `node ${to.name} has no IPv6, and a process has an IPv6 socket open: enable it there, or have the program listen on IPv4 only`
        : `the kernel of node ${to.name} lacks ${need}, which the container uses`,
    );
