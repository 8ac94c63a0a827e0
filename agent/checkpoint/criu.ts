import { closeSync, openSync } from "node:fs";
import { readFile } from "node:fs/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { CgroupMode, NetworkLock, Options, RequestType } from "../../proto/gen/criu/rpc.ts";
import { mustRun, runCommand } from "../native/command.ts";
import { CriuSession } from "./criu-session.ts";
import { PARENT_FOLDER } from "./parent-image.ts";
import { markResumption } from "./resumption.ts";

/** Deleted files that are still open travel inside the image up to this size. */
const GHOST_LIMIT_BYTES = 1024 * 1024 * 1024;
const EXTERNAL_NETNS = "extRootNetNS";
/**
 * Errors only (resumption.ts needs those): each line is a write, and there are a thousand of the others while the container
 * stands still.
 */
const LOG_LEVEL = 1;

export interface DumpInputs {
  readonly initPid: number;
  /** The container's root as the agent sees it. */
  readonly rootfs: string;
  /** Where the images go; only root can read it. */
  readonly imagesDir: string;
  /** Already frozen by the caller; CRIU leaves it frozen whatever happens. */
  readonly freezerPath: string;
  readonly netnsInode: number;
  /** Mount points inside the container that the target provides itself. */
  readonly externalMounts: readonly string[];
  /** Where the files are that inotify watches: an overlay's file handles cannot be opened. */
  readonly watchedPaths: readonly string[];
  /** CRIU is at work, and goes on as soon as this returns. */
  readonly onBegun: () => void;
  /** CRIU has stopped the container's network code and is about to read its sockets. */
  readonly onNetworkLock: () => Promise<void>;
  /**
   * The image is complete. CRIU waits, with what it added to the file system for the image's sake (names for open
   * files that have lost theirs) still there; rejecting fails the dump.
   */
  readonly onDumped: () => Promise<void>;
  /** A session that was started before the freeze. */
  readonly session: CriuSession;
  /** Index among the session's inherited descriptors of the socket that memory pages go to, instead of files. */
  readonly pageSocketIndex: number;
  /** Whoever serves that socket tells of some address spaces that there is a parent: see makeParentImage. */
  readonly tracked: boolean;
}

export interface RestoreInputs {
  readonly rootfs: string;
  readonly imagesDir: string;
  /** By mount point in the container, what is bound there. */
  readonly externalMounts: readonly { readonly path: string; readonly source: string }[];
  /** Keys such as "pipe:[123]" and the index among the session's inherited descriptors. */
  readonly inheritedPipes: readonly { readonly key: string; readonly index: number }[];
  /** Index of the target's network namespace among the inherited descriptors. */
  readonly netnsIndex: number;
  readonly session: CriuSession;
  /** A filler waits for this image: pages marked as lazy are left to it. */
  readonly lazy: boolean;
  /** TCP connections are closed instead of going on: their other ends know of later moments than the image. */
  readonly closesConnections: boolean;
  /** Its first process exists; CRIU goes on with the rest. */
  readonly onInit: (initPid: number) => void;
  /** Everything is built and nothing runs yet. CRIU waits; rejecting destroys what was built. */
  readonly onRestored: () => Promise<void>;
  /** It will run, and nobody can have it back. Its sockets are complete: packets may come. */
  readonly onResumes: () => void;
}

export async function criuVersion(criuPath: string): Promise<string> {
  const { stdout } = await mustRun(criuPath, ["--version"]);
  return /Version: (\S+)/.exec(stdout)?.[1] ?? "unknown";
}

const MAX_FAULT = 200;

/** Why CRIU and this kernel do not go together, in CRIU's own words; empty: they do. */
export async function checkpointFault(criuPath: string): Promise<string> {
  const { code, stdout, stderr } = await runCommand(criuPath, ["check"]);
  if (code === 0) return "";
  const lines = `${stderr}\n${stdout}`.split("\n");
  const line = lines.find((text) => /Error|fail/i.test(text)) ?? lines.find((text) => text.trim() !== "");
  return (line ?? `criu check ends with code ${code}`)
    .replace(/^\([^)]*\)\s*/, "")
    .trim()
    .slice(0, MAX_FAULT);
}

/**
 * Dumps a frozen container. It stays frozen and alive afterwards: who owns it is not CRIU's to decide.
 * @throws GodwitError with CRIU's own reason.
 */
export async function dump(inputs: DumpInputs): Promise<void> {
  const images = openSync(inputs.imagesDir, "r");
  try {
    const options = Options.fromPartial({
      imagesDirFd: images,
      pid: inputs.initPid,
      root: inputs.rootfs,
      leaveRunning: true,
      freezeCgroup: inputs.freezerPath,
      tcpEstablished: true,
      extUnixSk: true,
      fileLocks: true,
      linkRemap: true,
      orphanPtsMaster: true,
      ghostLimit: GHOST_LIMIT_BYTES,
      cgroups: { $case: "manageCgroupsMode", value: CgroupMode.IGNORE },
      networkLock: NetworkLock.SKIP,
      notifyScripts: true,
      ps: { fd: CriuSession.inheritedAs(inputs.pageSocketIndex) },
      ...(inputs.tracked ? { trackMem: true, parentImg: PARENT_FOLDER } : {}),
      external: [
        `net[${inputs.netnsInode}]:${EXTERNAL_NETNS}`,
        ...inputs.externalMounts.map((path) => `mnt[${path}]:${path}`),
      ],
      irmapScanPaths: [...inputs.watchedPaths],
      logLevel: LOG_LEVEL,
      logFile: "dump.log",
    });
    const response = await inputs.session.run(RequestType.DUMP, options, async (script) => {
      if (script === "pre-dump") inputs.onBegun();
      if (script === "network-lock") await inputs.onNetworkLock();
      if (script === "post-dump") await inputs.onDumped();
    });
    if (!response.success) {
      throw new GodwitError(
        "refused",
        `CRIU cannot checkpoint it: ${await reason(`${inputs.imagesDir}/dump.log`, response.crErrmsg ?? "")}`,
      );
    }
  } finally {
    closeSync(images);
  }
}

/** Restores a container and resolves when it runs; see RestoreInputs for the two points at which it waits. */
export async function restore(inputs: RestoreInputs): Promise<void> {
  const images = openSync(inputs.imagesDir, "r");
  try {
    const options = Options.fromPartial({
      imagesDirFd: images,
      workDirFd: images,
      ...(inputs.lazy ? { lazyPages: true } : {}),
      root: inputs.rootfs,
      ...(inputs.closesConnections ? { tcpClose: true } : { tcpEstablished: true }),
      extUnixSk: true,
      fileLocks: true,
      linkRemap: true,
      evasiveDevices: true,
      orphanPtsMaster: true,
      ghostLimit: GHOST_LIMIT_BYTES,
      cgroups: { $case: "manageCgroupsMode", value: CgroupMode.IGNORE },
      networkLock: NetworkLock.SKIP,
      notifyScripts: true,
      inheritFd: [
        { key: EXTERNAL_NETNS, fd: CriuSession.inheritedAs(inputs.netnsIndex) },
        ...inputs.inheritedPipes.map(({ key, index }) => ({ key, fd: CriuSession.inheritedAs(index) })),
      ],
      external: inputs.externalMounts.map(({ path, source }) => `mnt[${path}]:${source}`),
      logLevel: LOG_LEVEL,
      logFile: "restore.log",
    });
    const response = await inputs.session.run(RequestType.RESTORE, options, async (script, pid) => {
      if (script === "setup-namespaces") inputs.onInit(pid);
      if (script === "post-restore") await inputs.onRestored();
      if (script === "pre-resume") {
        markResumption(inputs.imagesDir);
        inputs.onResumes();
      }
    });
    if (!response.success) {
      throw new GodwitError(
        "internal",
        `CRIU cannot restore it: ${await reason(`${inputs.imagesDir}/restore.log`, response.crErrmsg ?? "")}`,
      );
    }
  } finally {
    closeSync(images);
  }
}

/** What CRIU calls an error and does without: without CAP_SYS_RESOURCE it cannot raise its own limit of open files. */
const HARMLESS = "Can't setup RLIMIT_NOFILE for self";

/** What CRIU says in words of its own sources, in an operator's. */
const MEANINGS: readonly (readonly [RegExp, string])[] = [
  [/fsnotify/, "a process has just begun to watch a file (inotify), or does so with fanotify; try again"],
  [/In-flight connection/, "a connection waits for a process to accept it; try again when it has been"],
];

/** The first error line of CRIU's log is the cause; those after it are consequences. */
async function reason(logFile: string, message: string): Promise<string> {
  const log = await readFile(logFile, "utf8").catch(() => "");
  const line = log.split("\n").find((text) => text.includes("Error (") && !text.includes(HARMLESS)) ?? "";
  const meaning = MEANINGS.find(([pattern]) => pattern.test(line))?.[1];
  return (
    meaning ??
    (line
      .replace(/^\([^)]*\)\s*/, "")
      .replace(/^\s*\d+:\s*/, "")
      .trim() ||
      message ||
      "no reason given")
  );
}
