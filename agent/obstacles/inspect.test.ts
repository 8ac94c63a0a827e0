import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";

import { expect, onTestFinished, test } from "vitest";

import { inspect } from "./inspect.ts";
import { WatchedPaths } from "./watches.ts";

/** A program that says "ready" when it holds what the script makes. */
async function program(script: string): Promise<number> {
  const child = spawn("python3", ["-u", "-c", `${script}\nprint("ready")\nimport time; time.sleep(600)`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await once(child, "exit");
  });
  const lines = createInterface({ input: child.stdout });
  const [line] = (await once(lines, "line")) as [string];
  expect(line).toBe("ready");
  return child.pid ?? 0;
}

const subject = (pid: number) => ({ initPid: pid, pids: [pid], watchedPaths: new WatchedPaths() });

async function kinds(script: string): Promise<string[]> {
  const pid = await program(script);
  const { blockers } = await inspect(subject(pid));
  // The test's host is not a container: its own mounts count.
  return blockers.map(({ kind }) => kind).filter((kind) => kind !== "mount");
}

const LIBC = "import ctypes, os, socket\nlibc = ctypes.CDLL(None)\n";

test.each([
  [
    "what can be moved",
    "s = socket.socket(); e = libc.eventfd(1, 0); n = open('/dev/urandom'); p = os.pipe()",
    [],
  ],
  ["an eventfd semaphore", "e = libc.eventfd(1, 1)", ["eventfd-semaphore"]],
  ["inotify without a watch", "i = libc.inotify_init1(0)", []],
  ["inotify", "i = libc.inotify_init1(0); libc.inotify_add_watch(i, b'/etc', 256)", []],
  [
    "inotify for one event",
    "i = libc.inotify_init1(0); libc.inotify_add_watch(i, b'/etc', ctypes.c_uint(0x80000100))",
    ["inotify-oneshot"],
  ],
])("%s", async (_, script, expected) => {
  expect(await kinds(LIBC + script)).toEqual(expected);
});

test.skipIf(!existsSync("/proc/sys/net/mptcp"))("a multipath TCP socket", async () => {
  expect(await kinds(`${LIBC}s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)`)).toEqual(["mptcp"]);
});

test("a stopped process is one that may go on", async () => {
  const pid = await program("");
  process.kill(pid, "SIGSTOP");
  await expect
    .poll(async () => (await inspect(subject(pid))).blockers.find(({ kind }) => kind === "stopped")?.passing)
    .toBe(true);
});

test("connections that nobody accepts are an obstacle when they stay", async () => {
  const pid = await program(
    "import socket\nl = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())",
  );
  const first = await inspect(subject(pid));
  expect(first.backlog.size).toBeGreaterThan(0);
  expect(first.blockers.map(({ kind }) => kind)).not.toContain("not-accepted");
  const second = await inspect(subject(pid), first);
  expect(second.blockers.map(({ kind }) => kind)).toContain("not-accepted");
});
