import { describe, expect, test } from "vitest";

import { isPureV2, parseHierarchies } from "./cgroups.ts";

const mount = (point: string, type: string, options: string, root = "/"): string =>
  `30 23 0:28 ${root} ${point} rw,relatime shared:9 - ${type} ${type} rw,${options}`;

describe("cgroup hierarchies as the kernel tells them", () => {
  test("hybrid: each below this process's own group, which differs", () => {
    const found = parseHierarchies(
      [
        mount("/", "ext4", "discard"),
        mount("/sys/fs/cgroup", "tmpfs", "mode=755"),
        mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
        mount("/sys/fs/cgroup/memory", "cgroup", "memory"),
        mount("/sys/fs/cgroup/systemd", "cgroup", "xattr,name=systemd"),
        mount("/sys/fs/cgroup/unified", "cgroup2", "nsdelegate"),
      ].join("\n"),
      "4:name=systemd:/a\n3:memory:/session/7\n2:cpu,cpuacct:/\n0::/a",
    );
    expect(found).toEqual([
      { name: "cpu,cpuacct", type: "cgroup", options: "cpu,cpuacct", base: "/sys/fs/cgroup/cpu,cpuacct" },
      { name: "memory", type: "cgroup", options: "memory", base: "/sys/fs/cgroup/memory/session/7" },
      { name: "systemd", type: "cgroup", options: "none,name=systemd", base: "/sys/fs/cgroup/systemd/a" },
      { name: "unified", type: "cgroup2", options: "", base: "/sys/fs/cgroup/unified/a" },
    ]);
    expect(isPureV2(found)).toBe(false);
  });

  test("v2 only: beside this process's own group, since that may give no controllers away", () => {
    const found = parseHierarchies(
      mount("/sys/fs/cgroup", "cgroup2", "nsdelegate,memory_recursiveprot"),
      "0::/user.slice/user-0.slice/session-3.scope",
    );
    expect(found).toEqual([{ name: "", type: "cgroup2", options: "", base: "/sys/fs/cgroup" }]);
    expect(isPureV2(found)).toBe(true);
  });

  test("in a container, a mount shows the hierarchy from the container's group on", () => {
    const found = parseHierarchies(
      mount("/sys/fs/cgroup/memory", "cgroup", "memory", "/docker/f00"),
      "3:memory:/docker/f00/inner",
    );
    expect(found[0]?.base).toBe("/sys/fs/cgroup/memory/inner");
  });

  test("a hierarchy that is mounted twice counts once; controllers that are mounted nowhere do not count", () => {
    const found = parseHierarchies(
      [mount("/sys/fs/cgroup/pids", "cgroup", "pids"), mount("/mnt/pids", "cgroup", "pids")].join("\n"),
      "3:pids:/\n2:memory:/x",
    );
    expect(found.map(({ base }) => base)).toEqual(["/sys/fs/cgroup/pids"]);
  });
});
