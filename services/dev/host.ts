/**
 * Becomes a process of a cluster: joins its cgroups and network namespace, for a host makes the other namespaces
 * and mounts, and then is replaced by the program. The pid stays, so who started it knows the program's pid.
 *
 *   node services/dev/host.ts '<LaunchOrder as JSON>'
 *
 * Everything here is synchronous and on one thread, since namespaces are a thread's.
 */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";

import {
  detachMount,
  enterNamespace,
  mount,
  MountFlag,
  Namespace,
  replaceProcess,
  setHostName,
  unshare,
} from "../../agent/native/process.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { enableControllers, isPureV2, joinGroup } from "./cgroups.ts";
import type { HostOrder, LaunchOrder } from "./launch.ts";
import { enterNamespacesOf, OWN_GROUP } from "./namespaces.ts";
import { readRecord } from "./record.ts";

function become(order: LaunchOrder): never {
  for (const group of order.groups) joinGroup(group);
  // From here on `dev down` finds this process in its groups. Has it been and gone already?
  const record = readRecord(order.dataDir);
  if (record?.clusterId !== order.clusterId || record.state === "stopping") {
    throw new GodwitError("cancelled", `the cluster in ${order.dataDir} is being taken down`);
  }
  const { place } = order;
  if (place.kind === "inside") enterNamespacesOf(place.pid);
  else {
    const netns = openSync(place.netnsPath, "r");
    enterNamespace(netns, Namespace.network);
    closeSync(netns);
    if (place.kind === "host") becomeHost(order, place);
  }
  process.chdir("/");
  const [program, ...args] = order.argv;
  if (program === undefined) throw new GodwitError("invalid", "there is no program to become");
  return replaceProcess(program, [program, ...args], order.environment);
}

function becomeHost(order: LaunchOrder, host: HostOrder): void {
  unshare(Namespace.mount | Namespace.uts | Namespace.cgroup);
  setHostName(host.name);
  mount("none", "/", null, MountFlag.recursive | MountFlag.private);
  forgetForeignMounts(order.dataDir);
  // criu.kdat is kept only on a tmpfs, and what a host keeps in /run is its own.
  mount("tmpfs", "/run", "tmpfs", MountFlag.noSuid | MountFlag.noDev, "mode=0755");
  renewSys(host);
  if (isPureV2(host.hierarchies)) {
    const own = join("/sys/fs/cgroup", OWN_GROUP);
    mkdirSync(own);
    joinGroup(own);
    enableControllers("/sys/fs/cgroup");
  }
}

interface Mount {
  readonly mountPoint: string;
  readonly type: string;
  readonly source: string;
}

function mounts(): Mount[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [head, tail] = line.split(" - ");
      const [type = "", source = ""] = tail?.split(" ") ?? [];
      const path = head?.split(" ")[4] ?? "";
      const mountPoint = path.replace(/\\(\d{3})/g, (_, octal: string) =>
        String.fromCharCode(parseInt(octal, 8)),
      );
      return { mountPoint, type, source };
    });
}

/**
 * The new mount namespace begins as a copy. A copied mount keeps alive what it shows: other clusters' network
 * namespaces (below /run/netns) and loop devices would outlive their own removal until this host ends.
 */
function forgetForeignMounts(dataDir: string): void {
  const isBelow = (path: string, folder: string): boolean => path === folder || path.startsWith(`${folder}/`);
  for (const { mountPoint, type, source } of mounts().toReversed()) {
    const foreign = mountPoint.startsWith("/run/") || type === "nsfs" || source.startsWith("/dev/loop");
    if (foreign && mountPoint !== "/" && !isBelow(dataDir, mountPoint) && !isBelow("/usr", mountPoint)) {
      try {
        detachMount(mountPoint);
      } catch (error) {
        // Another cluster that ends at this moment takes its namespaces' files away, and with them these mounts.
        if (mounts().some((still) => still.mountPoint === mountPoint)) throw error;
      }
    }
  }
}

/** A /sys of this network namespace, with this cgroup namespace's hierarchies and what else was mounted there. */
function renewSys(host: HostOrder): void {
  const draft = "/run/sys";
  mkdirSync(draft);
  mount("sysfs", draft, "sysfs", MountFlag.noSuid | MountFlag.noDev | MountFlag.noExec);
  const old = mounts().map(({ mountPoint }) => mountPoint);
  for (const path of old) {
    if (!path.startsWith("/sys/") || path === "/sys/fs/cgroup" || path.startsWith("/sys/fs/cgroup/"))
      continue;
    const target = draft + path.slice("/sys".length);
    if (existsSync(target)) mount(path, target, null, MountFlag.bind);
  }
  const flags = MountFlag.noSuid | MountFlag.noDev | MountFlag.noExec;
  const root = join(draft, "fs/cgroup");
  const [first] = host.hierarchies;
  if (first?.name === "") mount("cgroup2", root, "cgroup2", flags);
  else {
    mount("tmpfs", root, "tmpfs", flags, "mode=0755");
    for (const { name, type, options } of host.hierarchies) {
      const target = join(root, name);
      mkdirSync(target);
      mount(type, target, type, flags, type === "cgroup" ? options : null);
      // Where controllers share a hierarchy ("cpu,cpuacct"), programs look for each by its own name.
      for (const controller of options.split(",")) {
        const link = join(root, controller);
        if (
          options.includes(",") &&
          !controller.includes("=") &&
          controller !== "none" &&
          !existsSync(link)
        ) {
          symlinkSync(name, link);
        }
      }
    }
  }
  detachMount("/sys");
  mount(draft, "/sys", null, MountFlag.move);
  rmdirSync(draft);
}

if (process.argv[1] === import.meta.filename) {
  try {
    become(JSON.parse(process.argv[2] ?? "") as LaunchOrder);
  } catch (error) {
    process.stderr.write(`godwit dev: ${GodwitError.from(error).message}\n`);
    process.exit(1);
  }
}
