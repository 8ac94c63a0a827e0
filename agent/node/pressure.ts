/**
 * Pressure stall information: how much of the time tasks wait for cpu, memory or io
 * (https://docs.kernel.org/accounting/psi.html).
 */
import { readFileSync } from "node:fs";

import { Pressure, type PressureAverages } from "../../proto/gen/godwit/v1/spec.ts";

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // No such file: a kernel without PSI. Booted with psi=0 it has the files, and reading them fails.
    return undefined;
  }
};

/** Of "some avg10=0.12 avg60=0.05 avg300=0.01 total=4242". */
export function parsePressure(text: string, line: "some" | "full"): PressureAverages | undefined {
  const match = new RegExp(`^${line} avg10=([0-9.]+) avg60=([0-9.]+) avg300=([0-9.]+)`, "m").exec(text);
  if (match === null) return undefined;
  const [avg10 = 0, avg60 = 0, avg300 = 0] = match.slice(1).map(Number);
  return { avg10, avg60, avg300 };
}

/** @param prefix such as "/proc/pressure/"; @param suffix such as ".pressure" in a cgroup's folder */
function readPressure(prefix: string, suffix = ""): Pressure | undefined {
  const cpu = read(`${prefix}cpu${suffix}`);
  if (cpu === undefined) return undefined;
  const memory = read(`${prefix}memory${suffix}`) ?? "";
  const io = read(`${prefix}io${suffix}`) ?? "";
  return Pressure.fromPartial({
    cpuSome: parsePressure(cpu, "some"),
    memorySome: parsePressure(memory, "some"),
    memoryFull: parsePressure(memory, "full"),
    ioSome: parsePressure(io, "some"),
    ioFull: parsePressure(io, "full"),
  });
}

/** Of the processes of one cgroup (v2 hierarchy) and those below; undefined: the kernel does not measure it. */
export const groupPressure = (folder: string): Pressure | undefined =>
  readPressure(`${folder}/`, ".pressure");

/**
 * Of this host. A host that is itself a container sees the machine's in /proc/pressure, and its own in the root of its
 * cgroup namespace; where that is the true root, both are the same.
 */
export function hostPressure(v2Root: string | undefined): Pressure | undefined {
  return (v2Root === undefined ? undefined : groupPressure(v2Root)) ?? readPressure("/proc/pressure/");
}
