import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { pino } from "pino";
import { expect, test } from "vitest";

import { findFence } from "../config.ts";
import { bootTimeNs } from "../native/boot-clock.ts";
import { HostFence } from "./host-fence.ts";

const program = findFence();

async function until(what: string, look: () => boolean, timeoutMs = 5_000): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!look()) {
    if (performance.now() > deadlineMs) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await delay(5);
  }
}

/** A host whose freezer is a file: what is written to it is what it says. */
class Site implements Disposable {
  readonly dir = mkdtempSync(join(tmpdir(), "gw-fence-"));
  readonly #file = join(this.dir, "freezer");
  readonly #pids = new Set<number>();

  constructor() {
    writeFileSync(this.#file, "THAWED");
  }

  async agent(): Promise<HostFence> {
    if (program === undefined) throw new Error("godwit-fence is missing: run deploy/setup.sh");
    const fence = await HostFence.open({
      program,
      socketPath: join(this.dir, "fence.sock"),
      freezer: {
        control: this.#file,
        frozen: "FROZEN",
        thawed: "THAWED",
        confirm: this.#file,
        confirmed: "FROZEN",
      },
      link: "gw-none",
      hasContainers: () => true,
      logger: pino({ level: "silent" }),
      changed: () => undefined,
    });
    this.#pids.add(this.pid());
    return fence;
  }
  /** Of the fence that there is now: it holds the lock. 0: none. */
  pid(): number {
    const inode = statSync(join(this.dir, "fence.sock.lock"), { throwIfNoEntry: false })?.ino;
    const line = readFileSync("/proc/locks", "utf8")
      .split("\n")
      .find((one) => one.includes("FLOCK") && one.includes(`:${inode ?? "none"} `));
    return Number(/WRITE (\d+)/.exec(line ?? "")?.[1] ?? 0);
  }
  get isFrozen(): boolean {
    return readFileSync(this.#file, "utf8") === "FROZEN";
  }
  signal(signal: NodeJS.Signals): void {
    process.kill(this.pid(), signal);
  }

  [Symbol.dispose](): void {
    this.#pids.add(this.pid());
    for (const pid of this.#pids) {
      try {
        if (pid > 0) process.kill(pid, "SIGKILL");
      } catch {
        // ended by the test
      }
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}

test("an armed fence closes at its deadline, with its agent and without, and opens only for a later one", async () => {
  using site = new Site();
  using agent = await site.agent();
  expect(agent.armedMs).toBeUndefined();
  await agent.extend(bootTimeNs(), 60_000);
  expect([agent.armedMs, agent.isClosed, agent.fault]).toEqual([60_000, false, ""]);
  await agent.extend(bootTimeNs(), 250);
  agent[Symbol.dispose]();
  await until("the fence to close without an agent", () => site.isFrozen);

  using next = await site.agent();
  expect(next.isClosed).toBe(true);
  // A report that was sent so long ago that its lease has ended as well.
  await next.extend(bootTimeNs() - 10_000_000_000n, 5_000);
  expect(await next.lift()).toBe(false);
  expect(site.isFrozen).toBe(true);
  await next.extend(bootTimeNs(), 60_000);
  expect(site.isFrozen).toBe(true);
  expect(await next.lift()).toBe(true);
  expect([site.isFrozen, next.isClosed]).toEqual([false, false]);
});

test("the agent freezes when the fence stands still at the deadline, and a fence that wakes does not thaw", async () => {
  using site = new Site();
  using agent = await site.agent();
  await agent.extend(bootTimeNs(), 400);
  site.signal("SIGSTOP");
  await until("the agent to freeze by itself", () => site.isFrozen);
  expect(agent.isClosed).toBe(true);
  site.signal("SIGCONT");
  await agent.extend(bootTimeNs(), 60_000);
  expect(site.isFrozen).toBe(true);
  expect(await agent.lift()).toBe(true);
  expect(site.isFrozen).toBe(false);
});

test("a fence that is killed is replaced: the present deadline holds, and what was closed stays closed", async () => {
  using site = new Site();
  using agent = await site.agent();
  await agent.extend(bootTimeNs(), 60_000);
  const first = site.pid();
  site.signal("SIGKILL");
  await until("another fence", () => site.pid() !== first && site.pid() > 0);
  await until("the agent to have armed it", () => agent.armedMs === 60_000);
  // Longer than one that knows of no deadline stays open.
  await delay(800);
  expect(site.isFrozen).toBe(false);

  await agent.extend(bootTimeNs(), 100);
  await until("the fence to close", () => site.isFrozen && agent.isClosed);
  const second = site.pid();
  site.signal("SIGKILL");
  await until("a third fence", () => site.pid() !== second && site.pid() > 0);
  await until("an answer", () => agent.isClosed);
  expect(site.isFrozen).toBe(true);
});

test("a fence that nobody has told a deadline closes soon, and one without a lease is open for ever", async () => {
  using site = new Site();
  const agent = await site.agent();
  agent[Symbol.dispose]();
  await until("the fence to close", () => site.isFrozen);
  using next = await site.agent();
  await next.extend(bootTimeNs(), 0);
  expect(await next.lift()).toBe(true);
  expect([next.armedMs, site.isFrozen]).toEqual([0, false]);
});
