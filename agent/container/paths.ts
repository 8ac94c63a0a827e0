import type { AgentConfig } from "../config.ts";

/** Where one container's things are on this host. */
export interface ContainerPaths {
  /** Root-only folder of everything that is not data. */
  readonly dir: string;
  readonly record: string;
  readonly bundle: string;
  readonly rootfs: string;
  /** See dev-mounts.ts. */
  readonly dev: string;
  readonly shm: string;
  readonly log: string;
  readonly data: string;
  readonly upper: string;
  readonly work: string;
  /** The placeholder whose cgroups and runc state a restored container takes over. */
  readonly placeholderRootfs: string;
  readonly placeholderUpper: string;
  readonly placeholderWork: string;
  /** A tmpfs while a checkpoint image is on this host: memory pages never reach a disk but encrypted (agent/keep). */
  readonly images: string;
  /** Names the process that still fills a restored container's memory. */
  readonly lazyPages: string;
  /** Relative to where CgroupTree puts containers. */
  readonly cgroup: string;
}

/** All containers' cgroups are below it; relative to where CgroupTree puts containers. */
export const CONTAINERS_CGROUP = "godwit";

export function containerPaths(config: AgentConfig, containerId: string): ContainerPaths {
  const dir = `${config.stateDir}/containers/${containerId}`;
  const data = `${config.dataDir}/containers/${containerId}`;
  return {
    dir,
    record: `${dir}/record.json`,
    bundle: `${dir}/bundle`,
    rootfs: `${dir}/root`,
    dev: `${dir}/dev`,
    shm: `${dir}/shm`,
    log: `${dir}/log`,
    data,
    upper: `${data}/upper`,
    work: `${data}/work`,
    placeholderRootfs: `${dir}/placeholder`,
    placeholderUpper: `${data}/placeholder-upper`,
    placeholderWork: `${data}/placeholder-work`,
    images: `${dir}/images`,
    lazyPages: `${dir}/lazy-pages.json`,
    cgroup: `${CONTAINERS_CGROUP}/${containerId}`,
  };
}
