/** Where the cgroup hierarchies are, read from the kernel's own text. Pure. */

export type CgroupMode = "v1" | "hybrid" | "v2";

export interface CgroupLayout {
  readonly mode: CgroupMode;
  /** Own cgroup folder by controller; "" is the v2 hierarchy, which has none in mode hybrid. */
  readonly own: ReadonlyMap<string, string>;
}

/**
 * @param mountinfo text of /proc/self/mountinfo
 * @param membership text of /proc/self/cgroup
 */
export function parseCgroupMounts(mountinfo: string, membership: string): CgroupLayout {
  const paths = new Map<string, string>();
  for (const line of membership.split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    for (const controller of controllers.split(",")) paths.set(controller, path);
  }
  const own = new Map<string, string>();
  let unified: string | undefined;
  for (const line of mountinfo.split("\n")) {
    const [head, tail] = line.split(" - ");
    if (head === undefined || tail === undefined) continue;
    const fields = head.split(" ");
    const root = fields[3];
    const mountPoint = fields[4];
    const [type, , superOptions] = tail.split(" ");
    if (root === undefined || mountPoint === undefined) continue;
    if (type === "cgroup2") unified ??= below(mountPoint, root, paths.get("") ?? "/");
    if (type !== "cgroup") continue;
    for (const option of (superOptions ?? "").split(",")) {
      const path = paths.get(option);
      if (path !== undefined && !own.has(option)) own.set(option, below(mountPoint, root, path));
    }
  }
  if (own.size === 0) return { mode: "v2", own: new Map([["", unified ?? "/sys/fs/cgroup"]]) };
  if (unified === undefined) return { mode: "v1", own };
  // Without a controller, but runc makes a group in it as in the others.
  own.set("", unified);
  return { mode: "hybrid", own };
}

/** The systemd unit that keeps a cgroup for a host's containers; see deploy/systemd. */
const CONTAINERS_UNIT = "godwit-containers.service";
/** Above it there is nothing; the kernel's rule does not hold for a machine's root cgroup. */
const ROOT = "/sys/fs/cgroup";

/**
 * Where on v2 the containers' cgroup may be, best first. It cannot be below the agent's own: the kernel gives
 * controllers only to the children of a cgroup that holds no process itself. So it is beside it: in the cgroup that a
 * systemd unit keeps for them (one in the agent's own unit would keep systemd 252 from starting the agent again),
 * else in the parent, where that is ours (`godwit dev`). Undefined where systemd's own slices would be the parent.
 *
 * @param own the agent's own cgroup folder
 */
export function v2ContainersParents(own: string): {
  readonly unit: string;
  readonly parent: string | undefined;
} {
  const parent = own === ROOT ? ROOT : own.slice(0, own.lastIndexOf("/"));
  const managed = /\.(service|scope)$/.test(own);
  return { unit: `${parent}/${CONTAINERS_UNIT}`, parent: managed ? undefined : parent };
}

/** The folder of cgroup `path` in a mount that shows the hierarchy from `root` on. */
function below(mountPoint: string, root: string, path: string): string {
  const inside =
    root === "/" ? path : path === root ? "/" : path.startsWith(`${root}/`) ? path.slice(root.length) : path;
  return inside === "/" ? mountPoint : `${mountPoint}${inside}`;
}
