import { describe, expect, test } from "vitest";

import {
  anonymousBlocker,
  deviceBlocker,
  mappingBlocker,
  mountBlocker,
  parseMounts,
  protocolBlocker,
} from "./unsupported.ts";

test.each<[string, string | undefined]>([
  ["anon_inode:[eventpoll]", undefined],
  ["anon_inode:[timerfd]", undefined],
  ["anon_inode:inotify", undefined],
  ["anon_inode:[pidfd]", undefined],
  ["anon_inode:[io_uring]", "io-uring"],
  ["anon_inode:[userfaultfd]", "userfaultfd"],
  ["anon_inode:[perf_event]", "perf-event"],
  ["anon_inode:bpf-prog", "bpf-prog"],
  ["anon_inode:kvm-vm", "kvm-vm"],
])("%s: %s", (link, kind) => {
  expect(anonymousBlocker("process 1 (x)", link)?.kind).toBe(kind);
});

test.each<[string, string | undefined]>([
  ["TCP", undefined],
  ["UDPv6", undefined],
  ["UNIX-STREAM", undefined],
  ["MPTCP", "mptcp"],
  ["MPTCPv6", "mptcp"],
  ["SCTP", "socket"],
  ["AF_VSOCK", "vsock"],
])("a socket of %s: %s", (protocol, kind) => {
  expect(protocolBlocker("process 1 (x)", protocol)?.kind).toBe(kind);
});

describe("devices", () => {
  const device = { path: "/dev/x", isBlock: false, own: true };
  test.each<[number, number, boolean, boolean, string | undefined]>([
    [1, 3, true, false, undefined], // null
    [1, 9, true, false, undefined], // urandom
    [1, 1, true, false, "device"], // mem
    [5, 0, true, false, undefined], // tty
    [5, 2, true, false, undefined], // ptmx
    [136, 4, true, false, undefined], // a pty of its own
    [136, 4, false, false, "terminal"],
    [4, 1, true, false, "terminal"],
    [10, 229, true, false, "device"], // fuse
    [195, 0, true, false, "device"],
    [1, 3, true, true, "device"], // a RAM disk
  ])("%i:%i (own %s, block %s): %s", (major, minor, own, isBlock, kind) => {
    expect(deviceBlocker("process 1 (x)", { ...device, major, minor, own, isBlock })?.kind).toBe(kind);
  });
});

test("of a container's mounts, those of the host", () => {
  const mountinfo = [
    "500 1 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a",
    "501 500 0:51 / /proc rw - proc proc rw",
    "502 500 0:52 / /dev rw,nosuid - tmpfs tmpfs rw,mode=755",
    "503 502 0:53 / /dev/pts rw - devpts devpts rw",
    "504 501 0:6 /null /proc/kcore rw - devtmpfs devtmpfs rw",
    "505 501 0:51 /sys /proc/sys ro - proc proc rw",
    "506 500 8:1 /srv/my\\040data /data\\040here rw - ext4 /dev/sda1 rw",
    "507 500 0:60 / /mnt/nfs rw shared:3 - nfs4 host:/x rw",
    "508 500 0:61 /sub /run rw - tmpfs tmpfs rw",
    "",
  ].join("\n");
  const masked = new Set(["/proc/kcore", "/proc/sys"]);
  const found = parseMounts(mountinfo).flatMap((mount) => mountBlocker(mount, masked)?.reason ?? []);
  expect(found).toHaveLength(3);
  expect(found[0]).toMatch(/^\/data here is mounted from the host \(ext4\)/);
  expect(found[1]).toMatch(/^\/mnt\/nfs .*nfs4/);
  expect(found[2]).toMatch(/^\/run /);
});

test.each<[string, string | undefined]>([
  ["/dev/zero (deleted)", undefined],
  ["/dev/shm/area", undefined],
  ["/dev/nvidia0", "device"],
  ["/secretmem (deleted)", "secret-memory"],
  ["[uprobes]", "uprobes"],
])("a mapping of %s: %s", (path, kind) => {
  expect(mappingBlocker("process 1 (x)", path)?.kind).toBe(kind);
});
