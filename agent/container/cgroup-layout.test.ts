import { describe, expect, test } from "vitest";

import { parseCgroupMounts, v2ContainersParents } from "./cgroup-layout.ts";

const v1Mount = (controller: string, root = "/"): string =>
  `31 23 0:27 ${root} /sys/fs/cgroup/${controller} rw,relatime - cgroup cgroup rw,${controller}`;

describe("parseCgroupMounts", () => {
  test("v1, below a cgroup that is not the root", () => {
    const layout = parseCgroupMounts(
      [v1Mount("memory"), v1Mount("freezer")].join("\n"),
      "4:memory:/outer/inner\n6:freezer:/\n",
    );
    expect(layout.mode).toBe("v1");
    expect(Object.fromEntries(layout.own)).toEqual({
      memory: "/sys/fs/cgroup/memory/outer/inner",
      freezer: "/sys/fs/cgroup/freezer",
    });
  });

  test("hybrid: the controllers are v1's, the empty v2 hierarchy is one more", () => {
    const unified = "40 23 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    const layout = parseCgroupMounts(`${v1Mount("cpu,cpuacct")}\n${unified}`, "2:cpu,cpuacct:/a\n0::/\n");
    expect(layout.mode).toBe("hybrid");
    expect(Object.fromEntries(layout.own)).toEqual({
      cpu: "/sys/fs/cgroup/cpu,cpuacct/a",
      cpuacct: "/sys/fs/cgroup/cpu,cpuacct/a",
      "": "/sys/fs/cgroup/unified",
    });
  });

  test("v2", () => {
    const layout = parseCgroupMounts(
      "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
      "0::/system.slice/godwit-agent.service\n",
    );
    expect(layout).toEqual({
      mode: "v2",
      own: new Map([["", "/sys/fs/cgroup/system.slice/godwit-agent.service"]]),
    });
  });

  test("a mount that shows only a part of the hierarchy", () => {
    const layout = parseCgroupMounts(v1Mount("pids", "/outer"), "8:pids:/outer/inner\n");
    expect(layout.own.get("pids")).toBe("/sys/fs/cgroup/pids/inner");
  });
});

describe("v2ContainersParents", () => {
  test("beside the agent's unit, never straight in systemd's slice", () => {
    expect(v2ContainersParents("/sys/fs/cgroup/system.slice/godwit-agent.service")).toEqual({
      unit: "/sys/fs/cgroup/system.slice/godwit-containers.service",
      parent: undefined,
    });
  });

  test("in the parent, where no systemd has made it", () => {
    expect(v2ContainersParents("/sys/fs/cgroup/host").parent).toBe("/sys/fs/cgroup");
    expect(v2ContainersParents("/sys/fs/cgroup").parent).toBe("/sys/fs/cgroup");
  });
});
