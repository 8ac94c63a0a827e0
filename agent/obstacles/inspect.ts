import { statSync } from "node:fs";
import { setImmediate as breathe } from "node:timers/promises";

import type { Blocker } from "../../proto/gen/godwit/v1/spec.ts";
import { MASKED_PATHS, READONLY_PATHS } from "../container/bundle.ts";
import { socketProtocol } from "../native/files.ts";
import { processStat } from "../native/process.ts";
import { listFolder, readLink, readText } from "../native/proc.ts";
import { waitingConnections } from "./backlog.ts";
import { parseWatches, type Watch, type WatchedPaths } from "./watches.ts";
import {
  anonymousBlocker,
  blocker,
  deviceBlocker,
  mappingBlocker,
  mountBlocker,
  parseMounts,
  protocolBlocker,
} from "./unsupported.ts";

/** A container that runs. */
export interface Subject {
  readonly initPid: number;
  readonly pids: readonly number[];
  readonly watchedPaths: WatchedPaths;
}

/** What one look at a container has found. */
export interface Findings {
  readonly blockers: readonly Blocker[];
  /** Features that its next host has to have, see NodeInfo. */
  readonly needs: readonly string[];
  /** Listening TCP sockets whose queue of finished connections was not empty. */
  readonly backlog: ReadonlySet<string>;
  /** Not everything was looked at: the container has more than a look is worth. */
  readonly partial: boolean;
}

/** Each of a kind once is enough to say why; and a look must not cost more than it is worth. */
const MAX_BLOCKERS = 8;
const MAX_PROCESSES = 1_000;
const MAX_DESCRIPTORS = 20_000;
/** Reading a process's mappings holds its memory lock for a moment. */
const MAX_MAPS = 64;
/** Other work of the agent gets its turn after as long. */
const TURN_MS = 4;

const NAMESPACES = ["user", "mnt", "pid", "net", "ipc", "uts", "time"] as const;
const MASKED = new Set([...MASKED_PATHS, ...READONLY_PATHS]);

/**
 * Looks at a running container's processes from outside for what keeps it from being moved. What is opened afterwards
 * is not seen. `before` is what the last look found: some things are obstacles only when they last.
 */
export async function inspect(
  { initPid, pids, watchedPaths }: Subject,
  before?: Pick<Findings, "backlog">,
): Promise<Findings> {
  const look = new Look(initPid, pids);
  const members = own(initPid, pids);
  let turnMs = performance.now();
  for (const pid of members.slice(0, MAX_PROCESSES)) {
    if (look.isFull) break;
    look.process(pid);
    if (performance.now() - turnMs < TURN_MS) continue;
    await breathe();
    turnMs = performance.now();
  }
  look.mounts();
  if (look.watches.length > 0) {
    const { missing } = await watchedPaths.find(initPid, look.watches);
    if (missing.length > 0) look.add(unfound(missing.length));
  }
  const backlog = waitingConnections(initPid);
  if ([...backlog].some((socket) => before?.backlog.has(socket) === true)) {
    look.add(
      blocker(
        "not-accepted",
        "connections wait at a listening socket and no process accepts them",
        "see why the program does not",
        true,
      ),
    );
  }
  return {
    blockers: look.found,
    needs: usesIpv6(initPid) ? ["ipv6"] : [],
    backlog,
    partial: look.isFull || members.length > MAX_PROCESSES,
  };
}

/** Without those of exec sessions, which are closed before a move: their sessions' leaders have parents outside. */
function own(initPid: number, pids: readonly number[]): number[] {
  const inside = new Set(pids);
  const stats = new Map(pids.map((pid) => [pid, processStat(pid)]));
  return pids.filter((pid) => {
    const session = stats.get(pid)?.session;
    if (session === undefined) return false; // it has ended
    if (session === initPid || !inside.has(session)) return true;
    return inside.has(stats.get(session)?.parentPid ?? 0);
  });
}

/** A socket that listens on all addresses listens for IPv6 too wherever there is IPv6, and for IPv4 else. */
function usesIpv6(initPid: number): boolean {
  return ["tcp6", "udp6"].some((table) =>
    readText(`/proc/${initPid}/net/${table}`)
      .split("\n")
      .slice(1)
      .some((line) => line !== ""),
  );
}

class Look {
  readonly found: Blocker[] = [];
  readonly watches: Watch[] = [];
  readonly #initPid: number;
  readonly #namespaces: readonly string[];
  readonly #devices: ReadonlySet<number>;
  readonly #inside: ReadonlySet<number>;
  #descriptors = 0;
  #maps = 0;

  constructor(initPid: number, pids: readonly number[]) {
    this.#initPid = initPid;
    this.#inside = new Set(pids);
    this.#namespaces = NAMESPACES.map((name) => readLink(`/proc/${initPid}/ns/${name}`));
    const places = ["/", "/dev", "/dev/pts"];
    this.#devices = new Set(
      places.map((place) => statSync(`/proc/${initPid}/root${place}`, { throwIfNoEntry: false })?.dev ?? -1),
    );
  }

  get isFull(): boolean {
    return this.found.length >= MAX_BLOCKERS || this.#descriptors >= MAX_DESCRIPTORS;
  }

  /** One of a kind. */
  add(one: Blocker | undefined): void {
    if (one !== undefined && !this.found.some(({ kind }) => kind === one.kind)) this.found.push(one);
  }

  mounts(): void {
    for (const mount of parseMounts(readText(`/proc/${this.#initPid}/mountinfo`)))
      this.add(mountBlocker(mount, MASKED));
  }

  process(pid: number): void {
    const status = readText(`/proc/${pid}/status`);
    if (status === "") return;
    const name = /^Name:\t(.*)$/m.exec(status)?.[1] ?? "?";
    const inner = /^NSpid:.*?(\d+)$/m.exec(status)?.[1] ?? String(pid);
    const who = `process ${inner} (${name})`;
    this.#state(who, status);
    NAMESPACES.forEach((namespace, index) => {
      const its = readLink(`/proc/${pid}/ns/${namespace}`);
      if (its === "" || its === this.#namespaces[index]) return;
      const what = `${who} has a ${namespace} namespace of its own within the container`;
      this.add(blocker("namespace", what, "CRIU cannot restore one inside another"));
    });
    if (this.#maps < MAX_MAPS) {
      this.#maps += 1;
      for (const path of mappedPaths(pid)) this.add(mappingBlocker(who, path));
    }
    for (const descriptor of listFolder(`/proc/${pid}/fd`)) {
      this.#descriptors += 1;
      if (this.isFull) return;
      this.#descriptor(pid, who, descriptor);
    }
  }

  #state(who: string, status: string): void {
    if (/^State:\s*T/m.test(status))
      this.add(blocker("stopped", `${who} is stopped (SIGSTOP)`, "let it go on with SIGCONT first", true));
    const tracer = Number(/^TracerPid:\s*(\d+)$/m.exec(status)?.[1] ?? 0);
    if (tracer === 0) return;
    const by = this.#inside.has(tracer)
      ? "another process of the container"
      : `process ${tracer} of the host`;
    this.add(blocker("traced", `${who} is being debugged by ${by}`, "end the debugger first", true));
  }

  /** Those of the kinds that CRIU can checkpoint which it can not. */
  #closer(who: string, target: string, fdinfo: string): void {
    const kind = /^anon_inode:\[?(inotify|fanotify|eventfd)\]?$/.exec(target)?.[1];
    if (kind === undefined) return;
    const info = readText(fdinfo);
    if (kind === "inotify") {
      const watches = parseWatches(info);
      this.watches.push(...watches);
      if (watches.some(({ once }) => once)) {
        const what = `${who} watches files with inotify, each for one event only (IN_ONESHOT)`;
        this.add(blocker("inotify-oneshot", what, "CRIU would restore that as a lasting watch"));
      }
    } else if (kind === "eventfd" && /^eventfd-semaphore:\s*1$/m.test(info)) {
      const what = `${who} holds an eventfd semaphore (EFD_SEMAPHORE)`;
      this.add(blocker("eventfd-semaphore", what, "CRIU would restore it as a plain counter"));
    } else if (kind === "fanotify" && /^fanotify (ino|mnt_id|sdev):/m.test(info)) {
      const what = `${who} watches files with fanotify`;
      this.add(blocker("fanotify", what, "CRIU cannot find them again on an overlay; restart it without"));
    }
  }

  #descriptor(pid: number, who: string, descriptor: string): void {
    const path = `/proc/${pid}/fd/${descriptor}`;
    const target = readLink(path);
    if (target.startsWith("socket:")) {
      const protocol = socketProtocol(path);
      if (protocol !== undefined) this.add(protocolBlocker(who, protocol));
    } else if (target.startsWith("anon_inode:")) {
      this.add(anonymousBlocker(who, target));
      this.#closer(who, target, `/proc/${pid}/fdinfo/${descriptor}`);
    } else if (target.startsWith("/dev/")) {
      const file = statSync(path, { throwIfNoEntry: false });
      if (file === undefined || !(file.isCharacterDevice() || file.isBlockDevice())) return;
      const device = { path: target, major: major(file.rdev), minor: minor(file.rdev) };
      this.add(
        deviceBlocker(who, { ...device, isBlock: file.isBlockDevice(), own: this.#devices.has(file.dev) }),
      );
    } else if (target.startsWith("/secretmem")) this.add(mappingBlocker(who, target));
    else if (target.startsWith("/dmabuf")) this.add(anonymousBlocker(who, "anon_inode:[dmabuf]"));
  }
}

const unfound = (count: number): Blocker =>
  blocker(
    "inotify",
    `${count} of the files that are watched with inotify cannot be found by any path`,
    "have the program poll instead, or restart it without watching",
  );

/** Each file that is mapped, once. */
function mappedPaths(pid: number): Set<string> {
  const paths = new Set<string>();
  for (const line of readText(`/proc/${pid}/maps`).split("\n")) {
    const at = line.indexOf("/");
    if (at > 0 && (line.startsWith("/dev/", at) || line.startsWith("/secretmem", at)))
      paths.add(line.slice(at));
    else if (line.endsWith("[uprobes]")) paths.add("[uprobes]");
  }
  return paths;
}

const major = (device: number): number => ((device >> 8) & 0xfff) | (Math.floor(device / 2 ** 32) & ~0xfff);
const minor = (device: number): number => (device & 0xff) | ((device >> 12) & 0xfff00);
