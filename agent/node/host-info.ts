import { existsSync, readFileSync, statfsSync } from "node:fs";
import { arch, cpus, freemem, loadavg, release, totalmem } from "node:os";

import type { Load } from "../../proto/gen/godwit/v1/agent.ts";
import { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import type { Pressure } from "../../proto/gen/godwit/v1/spec.ts";
import { checkpointFault } from "../checkpoint/criu.ts";
import type { Host } from "../host.ts";
import { VERSION } from "../version.ts";

/** What this node is and can do. */
export async function describeNode(host: Host): Promise<NodeInfo> {
  const { config } = host;
  return NodeInfo.fromPartial({
    name: config.node,
    cpuMillis: config.cpuMillis ?? cpus().length * 1000,
    memoryBytes: config.memoryBytes ?? totalmem(),
    underlayAddress: config.underlayAddress,
    kernel: release(),
    criuVersion: host.criuVersion,
    runcVersion: await host.runc.version(),
    godwitVersion: VERSION,
    arch: arch(),
    cgroupMode: host.cgroups.mode,
    cpuFlags: cpuFlags(),
    streamKey: Buffer.from(host.identity.publicKey),
    features: kernelFeatures(),
    checkpointFault: await checkpointFault(host.criuPath),
    diskBytes: config.diskBytes ?? diskBytes(config.dataDir),
    labels: sortedLabels(config.labels),
  });
}

/** What of this kernel programs may come to rely on, and that other kernels may lack. */
function kernelFeatures(): string[] {
  return existsSync("/proc/net/if_inet6") ? ["ipv6"] : [];
}

/** Flags of the first CPU; a restored program may have chosen its code by them. */
function cpuFlags(): string[] {
  const line = /^flags\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
  return line.split(" ").filter(Boolean).sort();
}

export function measureLoad(host: Host, cpuMillisUsed: number, pressure: Pressure | undefined): Load {
  return {
    cpuMillisUsed,
    memoryBytesUsed: totalmem() - freemem(),
    load1: loadavg()[0] ?? 0,
    // Goes on when the agent is restarted, unlike performance.now().
    measuredAtMs: Number(process.hrtime.bigint() / 1_000n) / 1_000,
    diskBytesFree: freeDisk(host.config.dataDir),
    ...(pressure === undefined ? {} : { pressure }),
  };
}

/** Of the file system that the containers' files are on. */
function diskBytes(folder: string): number {
  const { blocks, bsize } = statfsSync(folder);
  return blocks * bsize;
}
function freeDisk(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

/** In one order whatever the file's, since a description that differs is told to the whole cluster. */
function sortedLabels(labels: Readonly<Record<string, string>> = {}): Record<string, string> {
  return Object.fromEntries(Object.entries(labels).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
