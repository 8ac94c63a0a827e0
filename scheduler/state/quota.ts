/** What all containers of a project may have together. Pure. */
import type { Project } from "../../proto/gen/godwit/v1/log.ts";
import type { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { formatBytes, formatCpus } from "../model/quantity.ts";
import type { Cluster } from "./cluster.ts";
import { DEFAULT_PROJECT, type ProjectUse } from "./placement-index.ts";
import { reject, type Outcome } from "./rejection.ts";

const NO_USE: Readonly<ProjectUse> = { memoryBytes: 0, cpuMillis: 0, diskBytes: 0, containers: 0 };
export const projectUse = (cluster: Cluster, project: string): Readonly<ProjectUse> =>
  cluster.index.placement.projects.get(project) ?? NO_USE;

const MEASURES = [
  { of: "memoryBytes", text: formatBytes, what: "memory", flag: "--memory" },
  { of: "cpuMillis", text: formatCpus, what: "cpu", flag: "--cpus" },
  { of: "diskBytes", text: formatBytes, what: "disk", flag: "--disk" },
] as const;

/** Whether the project may have one more container like this. */
export const quotaCheck = (cluster: Cluster, spec: ContainerSpec): Outcome => {
  const name = spec.project || DEFAULT_PROJECT;
  const limits: Project | undefined = cluster.state.projects[name];
  if (limits === undefined) return undefined;
  const use = projectUse(cluster, name);
  const raise = `remove containers of it, or raise its limit ("godwit project set ${name}")`;
  if (limits.containers > 0 && use.containers >= limits.containers)
    return reject(
      "exhausted",
      `project ${name} may have ${limits.containers} containers and has ${use.containers}: ${raise}`,
    );
  for (const { of, text, what, flag } of MEASURES) {
    if (limits[of] === 0) continue;
    const wanted = spec.limits?.[of] ?? 0;
    if (wanted === 0)
      return reject(
        "refused",
        `project ${name} has a ${what} limit, so its containers need one: give ${flag}`,
      );
    if (use[of] + wanted > limits[of])
      return reject(
        "exhausted",
        `project ${name} may have ${text(limits[of])} of ${what} and has given out ${text(use[of])}, so ${text(wanted)} more are too much: ${raise}`,
      );
  }
  return undefined;
};
