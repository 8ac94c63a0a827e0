import type { ContainerSpec, ImageConfig } from "../../proto/gen/godwit/v1/spec.ts";
import { signalNumber } from "../../proto/contract/signals.ts";
import { DEFAULT_CAPABILITIES, seccompProfile } from "./confinement.ts";

/** What an OCI bundle's config.json is made from. Pure: paths and ids are the caller's. */
export interface BundleInputs {
  readonly spec: ContainerSpec;
  readonly image: ImageConfig;
  readonly rootfs: string;
  /** See dev-mounts.ts. */
  readonly dev: string;
  readonly shm: string;
  readonly netnsPath: string;
  /** As CgroupTree.runcPath says it. */
  readonly cgroupsPath: string;
  readonly user: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
}

const SIGTERM = 15;
const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** The command line that a container runs: the spec's, else the image's. */
export function commandOf(spec: ContainerSpec, image: ImageConfig): string[] {
  if (spec.command.length > 0) return [...spec.command];
  return [...image.entrypoint, ...image.cmd];
}

/** What the user or the image has set stays as it is. */
function applyCures(environment: Map<string, string>): void {
  // Go: multipath TCP sockets cannot be checkpointed; plain TCP is what peers fall back to anyway. One of several settings.
  const debug = environment.get("GODEBUG");
  if (debug === undefined) environment.set("GODEBUG", "multipathtcp=0");
  else if (debug !== "" && !/(^|,)multipathtcp=/.test(debug))
    environment.set("GODEBUG", `${debug},multipathtcp=0`);
  // libuv (Node): io_uring is refused by the seccomp profile as well; this spares it the attempt.
  if (!environment.has("UV_USE_IO_URING")) environment.set("UV_USE_IO_URING", "0");
}

/** Environment as K=V, the spec's over the image's. */
export function environmentOf(spec: ContainerSpec, image: ImageConfig): string[] {
  const merged = new Map<string, string>();
  for (const entry of [DEFAULT_PATH, ...image.env]) {
    const at = entry.indexOf("=");
    if (at > 0) merged.set(entry.slice(0, at), entry.slice(at + 1));
  }
  merged.set("HOSTNAME", spec.name);
  for (const [key, value] of Object.entries(spec.env)) merged.set(key, value);
  if (!spec.noCures) applyCures(merged);
  return [...merged].map(([key, value]) => `${key}=${value}`);
}

/** The number of the signal that asks it to end: the spec's, else the image's, else SIGTERM. */
export function stopSignalOf(spec: ContainerSpec, image: ImageConfig | undefined): number {
  return signalNumber(spec.stopSignal || image?.stopSignal || "") ?? SIGTERM;
}

export function ociConfig(inputs: BundleInputs): object {
  const { spec, image } = inputs;
  const limits = spec.limits;
  return {
    ociVersion: "1.0.2",
    process: {
      terminal: false,
      user: { uid: inputs.user.uid, gid: inputs.user.gid, additionalGids: inputs.user.additionalGids },
      args: commandOf(spec, image),
      env: environmentOf(spec, image),
      cwd: spec.workingDir || image.workingDir || "/",
      // No rlimits: a hard limit cannot be raised without CAP_SYS_RESOURCE, so the agent's own are inherited.
      capabilities: {
        bounding: DEFAULT_CAPABILITIES,
        effective: DEFAULT_CAPABILITIES,
        permitted: DEFAULT_CAPABILITIES,
      },
      noNewPrivileges: true,
    },
    root: { path: inputs.rootfs, readonly: false },
    hostname: spec.name,
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      {
        destination: "/dev",
        type: "bind",
        source: inputs.dev,
        options: ["bind", "nosuid", "strictatime"],
      },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
      },
      {
        destination: "/dev/shm",
        type: "bind",
        source: inputs.shm,
        options: ["bind", "nosuid", "noexec", "nodev"],
      },
      {
        destination: "/dev/mqueue",
        type: "mqueue",
        source: "mqueue",
        options: ["nosuid", "noexec", "nodev"],
      },
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    ],
    linux: {
      // systemd shares every mount of its host. One that follows a host's names that host's, and no other could restore it.
      rootfsPropagation: "rprivate",
      resources: {
        devices: [{ allow: false, access: "rwm" }],
        ...(limits === undefined
          ? {}
          : {
              ...(limits.memoryBytes > 0 ? { memory: { limit: limits.memoryBytes } } : {}),
              ...(limits.cpuMillis > 0 ? { cpu: { quota: limits.cpuMillis * 100, period: 100_000 } } : {}),
              ...(limits.pids > 0 ? { pids: { limit: limits.pids } } : {}),
            }),
      },
      cgroupsPath: inputs.cgroupsPath,
      namespaces: [
        { type: "pid" },
        { type: "ipc" },
        { type: "uts" },
        { type: "mount" },
        { type: "network", path: inputs.netnsPath },
      ],
      seccomp: seccompProfile({ ioUring: spec.noCures }),
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
    },
  };
}

/** Shared memory may take half of the limit; without one, runc's customary 64 MiB would starve databases. */
export function shmBytes(memoryLimitBytes: number): number {
  const unlimited = 1024 ** 3;
  const least = 64 * 1024 ** 2;
  return memoryLimitBytes > 0 ? Math.max(least, Math.floor(memoryLimitBytes / 2)) : unlimited;
}

/** Files only: masking a folder costs a tmpfs, and each tmpfs costs CRIU some 7 ms at dump and at restore. */
export const MASKED_PATHS = [
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
];
export const READONLY_PATHS = [
  "/proc/acpi",
  "/proc/scsi",
  "/proc/bus",
  "/proc/fs",
  "/proc/irq",
  "/proc/sys",
  "/proc/sysrq-trigger",
];
