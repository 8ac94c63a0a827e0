import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { afterEach, expect, test } from "vitest";

import { ProcessMemory } from "../checkpoint/process-memory.ts";
import { processStat } from "../native/process.ts";
import { canWriteProtect } from "./support.ts";
import { type LastMapping, TrackedProcess } from "./tracked-process.ts";
import { Tracer } from "./tracer.ts";

/** Holds 64 MiB, has threads, waits in system calls that have to be started again, and writes when it is told to. */
const PROGRAM = `
import ctypes, mmap, sys, threading, time, os
memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, len(memory), 4096): memory[page] = 1
libc = ctypes.CDLL(None)
mapped, moved = libc.mmap, libc.mremap
mapped.restype = moved.restype = ctypes.c_void_p
mapped.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
moved.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
MIDDLE = 1024 * 4096
def middle():
    return ctypes.addressof(ctypes.c_char.from_buffer(memory)) + MIDDLE
def sleeper():
    while True: time.sleep(0.001)
for _ in range(4): threading.Thread(target=sleeper, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    if word == "write":
        for number in numbers: memory[int(number) * 4096] = 2
    if word == "aside":
        aside = mapped(None, MIDDLE, 0, 0x22, -1, 0)
        assert moved(middle(), MIDDLE, MIDDLE, 3, aside) == aside
    if word == "back": assert moved(aside, MIDDLE, MIDDLE, 3, middle()) == middle()
    if word == "resize": memory.resize(int(numbers[0]) << 20)
    if word == "exec": os.execv(sys.executable, [sys.executable, "-c", "import sys; print('again', flush=True); sys.stdin.read()"])
    print(middle() - MIDDLE + int(numbers[0]) * 4096 if word == "where" else "done", flush=True)
`;

let child: ChildProcess | undefined;
afterEach(async () => {
  if (child?.exitCode === null && child.signalCode === null) {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});

async function start(): Promise<{ pid: number; say: (line: string) => Promise<string> }> {
  const started = spawn("python3", ["-c", PROGRAM], { stdio: ["pipe", "pipe", "inherit"] });
  child = started;
  const lines = createInterface({ input: started.stdout })[Symbol.asyncIterator]();
  expect((await lines.next()).value).toBe("ready");
  return {
    pid: started.pid ?? 0,
    say: async (line) => {
      started.stdin.write(`${line}\n`);
      return (await lines.next()).value ?? "";
    },
  };
}

function open(pid: number): ProcessMemory {
  const memory = ProcessMemory.open(pid);
  if (memory === undefined) throw new Error(`process ${pid} has no memory`);
  return memory;
}

/** Sum of the pages of runs. */
function count(runs: Iterable<{ pages: number }>): number {
  return [...runs].reduce((sum, { pages }) => sum + pages, 0);
}

/** Pages that are not all zeros: whether the kernel's one page of zeros counts is told differently. */
function countWithContent(memory: ProcessMemory): number {
  const page = Buffer.alloc(4096);
  let found = 0;
  for (const { address, pages } of memory.runs()) {
    for (let index = 0; index < pages; index += 1) {
      memory.readPages(page, 0, address + index * 4096, 1);
      if (page.some((byte) => byte !== 0)) found += 1;
    }
  }
  return found;
}

const PAGES = (64 << 20) / 4096;

// What is tracked is the kernel's to say; one without write protection has its own way, which the machines' tests try.
test.skipIf(!canWriteProtect())("written pages are told apart, and the process notices nothing", async () => {
  const { pid, say } = await start();
  using tracer = new Tracer();
  using memory = open(pid);
  using tracked = await TrackedProcess.begin(memory, "write-protect", tracer, (reason) => {
    throw new Error(reason);
  });
  expect(tracked.knowsWrites).toBe(true);
  expect(count(tracked.takeWritten(memory))).toBeGreaterThanOrEqual(PAGES);
  expect(await say("write 5 6 7 9000")).toBe("done");
  const second = count(tracked.takeWritten(memory));
  expect(second).toBeGreaterThanOrEqual(4);
  expect(second).toBeLessThan(PAGES / 2);
  expect(await say("write 100")).toBe("done");
  const looked = (await tracked.lookAtLast(memory, () => Promise.resolve())) ?? [];
  const last = count(looked.flatMap(({ written }) => written ?? []));
  expect(last).toBeGreaterThanOrEqual(1);
  expect(last).toBeLessThan(PAGES / 2);
  expect(looked.some(({ written }) => written === undefined)).toBe(true);
  const there = count(looked.flatMap((mapping) => mapping.there));
  expect(there).toBeGreaterThanOrEqual(countWithContent(memory));
  expect(there).toBeLessThanOrEqual(count(memory.runs()));
  expect(processStat(pid)?.state).toMatch(/[SR]/);
});

test.skipIf(!canWriteProtect())("a mapping that grows while a round looks stays one mapping", async () => {
  const { pid, say } = await start();
  using tracer = new Tracer();
  using memory = open(pid);
  using tracked = await TrackedProcess.begin(memory, "write-protect", tracer, (reason) => {
    throw new Error(reason);
  });
  // There is room behind it now, so that it grows where it is.
  expect(await say("resize 16")).toBe("done");
  const round = tracked.takeWritten(memory);
  round.next();
  expect(await say("resize 32")).toBe("done");
  count(round);
  // As long as it is one: the kernel moves and cuts no two with one call.
  expect(await say("resize 48")).toBe("done");
  expect(await say("write 9000 12000")).toBe("done");
  expect(count(tracked.takeWritten(memory))).toBeGreaterThanOrEqual(2);
  expect(await say("resize 8")).toBe("done");
});

test.skipIf(!canWriteProtect())(
  "a write to pages beside some that were moved away and back is not missed",
  async () => {
    const { pid, say } = await start();
    using tracer = new Tracer();
    using memory = open(pid);
    using tracked = await TrackedProcess.begin(memory, "write-protect", tracer, (reason) => {
      throw new Error(reason);
    });
    count(tracked.takeWritten(memory));
    expect(await say("aside")).toBe("done");
    count(tracked.takeWritten(memory));
    // They become one mapping with their neighbours, which lose their tracking and keep their marks.
    expect(await say("back")).toBe("done");
    expect(await say("write 9000")).toBe("done");
    const isTold = (mapping: LastMapping, page: number): boolean =>
      (mapping.written ?? mapping.there).some(
        ({ address, pages }) => address <= page && page < address + pages * 4096,
      );
    const looked = (await tracked.lookAtLast(memory, () => Promise.resolve())) ?? [];
    const [largest] = looked.toSorted((a, b) => count(b.there) - count(a.there));
    const written = Number(await say("where 9000"));
    expect(looked.some((mapping) => isTold(mapping, written))).toBe(true);
    expect(largest?.start).toBeLessThanOrEqual(written);
    count(tracked.takeWritten(memory));
    expect(await say("write 9001")).toBe("done");
    const again = (await tracked.lookAtLast(memory, () => Promise.resolve())) ?? [];
    expect(again.some((mapping) => isTold(mapping, written + 4096))).toBe(true);
  },
);

test.skipIf(!canWriteProtect())("a process that becomes another program is all written", async () => {
  const { pid, say } = await start();
  using tracer = new Tracer();
  using before = open(pid);
  using tracked = await TrackedProcess.begin(before, "write-protect", tracer, (reason) => {
    throw new Error(reason);
  });
  count(tracked.takeWritten(before));
  expect(await say("exec")).toBe("again");
  using after = open(pid);
  const all = countWithContent(after);
  const looked = (await tracked.lookAtLast(after, () => Promise.resolve())) ?? [];
  expect(count(looked.flatMap(({ there, written }) => written ?? there))).toBeGreaterThanOrEqual(all);
});

test.skipIf(!canWriteProtect())(
  "many processes one after the other, each made to stop in the middle of its calls",
  async () => {
    const { pid, say } = await start();
    for (let turn = 0; turn < 20; turn += 1) {
      using tracer = new Tracer();
      using memory = open(pid);
      using tracked = await TrackedProcess.begin(memory, "write-protect", tracer, (reason) => {
        throw new Error(reason);
      });
      count(tracked.takeWritten(memory));
      expect(await say(`write ${turn}`)).toBe("done");
    }
  },
);

test("a process that does not exist is compared, with a reason", async () => {
  const { pid } = await start();
  using memory = open(pid);
  using tracer = new Tracer();
  child?.kill("SIGKILL");
  await once(child as ChildProcess, "exit");
  let reason = "";
  using tracked = await TrackedProcess.begin(memory, "write-protect", tracer, (why) => (reason = why));
  expect(tracked.knowsWrites).toBe(false);
  expect(reason).not.toBe("");
});

const IN_VFORK = `
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None)
print("ready", flush=True)
if libc.syscall(56, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:  # CLONE_VFORK: the parent waits for the child's end
    time.sleep(1)
    os._exit(0)
sys.stdin.read()
`;

test.skipIf(!canWriteProtect())("a process that cannot be stopped in time is let go", async () => {
  const started = spawn("python3", ["-c", IN_VFORK], { stdio: ["pipe", "pipe", "inherit"] });
  child = started;
  await once(started.stdout, "data");
  const pid = started.pid ?? 0;
  const waits = () => readFileSync(`/proc/${pid}/syscall`, "utf8").startsWith("56 ");
  await expect.poll(waits).toBe(true);
  using tracer = new Tracer();
  await expect(tracer.userfaultfdOf(pid)).rejects.toThrow(/does not stop within/);
  expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(/^TracerPid:\s*0$/m);
  await expect.poll(() => processStat(pid)?.state).toBe("S");
});
