/**
 * What CRIU can checkpoint and what it cannot, as its sources say (files.c, sockets.c, sk-inet.c, proc_parse.c), told in an
 * operator's words. Pure.
 */
import type { Blocker } from "../../proto/gen/godwit/v1/spec.ts";

export const blocker = (kind: string, reason: string, advice: string, passing = false): Blocker => ({
  kind,
  reason: advice === "" ? reason : `${reason}: ${advice}`,
  passing,
});

/** Of "anon_inode:[name]"; inotify, fanotify and eventfds are looked at more closely by the caller. */
const ANONYMOUS_SUPPORTED = new Set([
  "eventfd",
  "eventpoll",
  "inotify",
  "fanotify",
  "signalfd",
  "timerfd",
  "pidfd",
]);
const ANONYMOUS_WORDS: Readonly<Record<string, readonly [string, string]>> = {
  io_uring: [
    "uses io_uring",
    "turn that off in the program (Node: UV_USE_IO_URING=0), which then uses epoll, and restart it",
  ],
  userfaultfd: ["holds a userfaultfd", "it can be moved once that is closed"],
  perf_event: ["measures with perf events", "stop the measurement"],
  "kvm-vm": ["runs a virtual machine (KVM)", "it has to be moved by the hypervisor's own means"],
};

/** `link` is what /proc/PID/fd/N points to. */
export function anonymousBlocker(who: string, link: string): Blocker | undefined {
  const name = /^anon_inode:\[?([^\]]+)\]?$/.exec(link)?.[1] ?? link;
  if (ANONYMOUS_SUPPORTED.has(name)) return undefined;
  const [what, advice] = ANONYMOUS_WORDS[name] ?? [
    `holds a ${name} descriptor, which CRIU cannot checkpoint`,
    "it can be moved once that is closed",
  ];
  return blocker(kindOf(name), `${who} ${what}`, advice);
}

const kindOf = (name: string): string =>
  name === "io_uring" ? "io-uring" : name.replace(/[^a-z0-9]+/gi, "-");

/** Names by which the kernel knows them (struct proto), without the 6 of IPv6. */
const PROTOCOLS_SUPPORTED = new Set([
  "TCP",
  "UDP",
  "UDP-Lite",
  "UDPLITE",
  "RAW",
  "PING",
  "UNIX",
  "UNIX-STREAM",
  "PACKET",
  "NETLINK",
]);

export function protocolBlocker(who: string, protocol: string): Blocker | undefined {
  const name = protocol.replace(/v6$/, "");
  if (PROTOCOLS_SUPPORTED.has(name)) return undefined;
  if (name === "MPTCP") {
    return blocker(
      "mptcp",
      `${who} holds a multipath TCP socket`,
      "have the program use plain TCP (Go: GODEBUG=multipathtcp=0) and restart it",
    );
  }
  return blocker(
    name === "AF_VSOCK" ? "vsock" : "socket",
    `${who} holds a ${name} socket, which CRIU cannot checkpoint`,
    "it can be moved once that is closed",
  );
}

const MEMORY_DEVICES = 1;
const TERMINALS = 4;
const TERMINAL_NAMES = 5;
const PTY_FIRST = 136;
const PTY_LAST = 143;

export interface DeviceFile {
  readonly path: string;
  readonly major: number;
  readonly minor: number;
  readonly isBlock: boolean;
  /** Whether it lies on one of the container's own file systems. */
  readonly own: boolean;
}

/** /dev/mem and its like pass CRIU and would not be the same device on another host. */
const PORTABLE_MEMORY_DEVICES = new Set([3, 5, 7, 8, 9]);

export function deviceBlocker(who: string, file: DeviceFile): Blocker | undefined {
  const { major, minor, path } = file;
  if (!file.isBlock) {
    if (major === MEMORY_DEVICES && PORTABLE_MEMORY_DEVICES.has(minor)) return undefined;
    // /dev/tty and /dev/ptmx lead to what is looked at by itself.
    if (major === TERMINAL_NAMES && minor !== 1) return undefined;
    const pty = major >= PTY_FIRST && major <= PTY_LAST;
    if (pty && file.own) return undefined;
    if (pty || major === TERMINALS || major === TERMINAL_NAMES) {
      return blocker(
        "terminal",
        `${who} is attached to a terminal of the host (${path})`,
        "close that terminal, or start the program without it",
      );
    }
  }
  return blocker(
    "device",
    `${who} has the host's device ${path} (${major}:${minor}) open`,
    "it is not there on other hosts; the container can be moved once that is closed",
  );
}

/** Of a mount, as /proc/PID/mountinfo tells it. */
export interface MountLine {
  /** What of the file system is mounted. */
  readonly root: string;
  readonly place: string;
  readonly fileSystem: string;
}

/** What a container of Godwit's has of its own. */
const OWN_FILE_SYSTEMS = new Set(["proc", "sysfs", "tmpfs", "devpts", "mqueue"]);

export function mountBlocker(mount: MountLine, masked: ReadonlySet<string>): Blocker | undefined {
  if (mount.place === "/" || masked.has(mount.place)) return undefined;
  if (OWN_FILE_SYSTEMS.has(mount.fileSystem) && (mount.root === "/" || mount.fileSystem === "proc"))
    return undefined;
  return blocker(
    "mount",
    `${mount.place} is mounted from the host (${mount.fileSystem})`,
    "what is there does not exist on other hosts; unmount it first",
  );
}

export function parseMounts(mountinfo: string): MountLine[] {
  return mountinfo.split("\n").flatMap((line) => {
    const fields = line.split(" ");
    const separator = fields.indexOf("-");
    const [root, place] = [fields[3], fields[4]];
    if (separator < 0 || root === undefined || place === undefined) return [];
    return { root, place: unescape(place), fileSystem: fields[separator + 1] ?? "" };
  });
}

/** Blanks and the like are written as octal numbers. */
const unescape = (path: string): string =>
  path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));

/** A line of /proc/PID/maps' last column. */
export function mappingBlocker(who: string, path: string): Blocker | undefined {
  if (path === "[uprobes]")
    return blocker("uprobes", `${who} is being traced with uprobes`, "end the tracing first");
  if (path.startsWith("/secretmem"))
    return blocker(
      "secret-memory",
      `${who} holds secret memory (memfd_secret), which nobody can read out`,
      "",
    );
  if (path.startsWith("/dev/") && !/^\/dev\/(zero|null|shm\/|mqueue\/|hugepages\/)/.test(path))
    return blocker(
      "device",
      `${who} has the host's device ${path} mapped`,
      "it is not there on other hosts; the container can be moved once that is unmapped",
    );
  return undefined;
}
