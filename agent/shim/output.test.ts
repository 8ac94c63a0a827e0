import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { nextExit, TestHost, until } from "./fixture/host.ts";

let host: TestHost;
beforeEach(() => {
  host = new TestHost();
});
afterEach(() => host[Symbol.asyncDispose]());

describe("output", () => {
  test("an unfinished line is handed over at detach and goes on at attach", async () => {
    host.startShim();
    const shim = await host.client();
    const trigger = join(host.stateDir, "go");
    const init = await host.shell(
      `echo whole; printf half; printf oops >&2; while ! [ -e ${trigger} ]; do sleep 0.02; done; echo ' more'`,
    );
    await host.attach(shim, "c1", init);
    await until("the first line", async () => (await host.logged("c1")).length === 1);
    const detached = await until("both halves", async () => {
      const answer = await shim.detach("c1");
      if (answer.partial.e !== "") return answer;
      await host.attach(shim, "c1", init); // nothing said about partial lines: the shim's own memory serves
      return undefined;
    });
    expect(Buffer.from(detached.partial.o, "base64").toString()).toBe("half");
    expect(await shim.detach("c1")).toEqual(detached); // an agent that died before it read the answer
    expect(detached.offset).toBe(statSync(join(host.logDir("c1"), "log.current")).size);
    const { stdout, stderr } = init;
    const { offset } = await shim.attach({
      container: "c1",
      dir: host.logDir("c1"),
      initPid: init.pid,
      stdout,
      stderr,
      ...detached,
    });
    expect(offset).toBe(detached.offset);
    writeFileSync(trigger, "");
    await nextExit(shim);
    await until("all lines", async () => (await host.logged("c1")).length === 3);
    expect((await host.logged("c1")).toSorted()).toEqual(["e oops", "o half more", "o whole"]);
  });

  test("attaching twice reads once", async () => {
    host.startShim();
    const shim = await host.client();
    const init = await host.shell("sleep 0.3; for i in 1 2 3; do echo $i; done");
    await host.attach(shim, "c1", init);
    await host.attach(shim, "c1", init);
    await nextExit(shim);
    await until("the lines", async () => (await host.logged("c1")).length === 3);
    expect(await host.logged("c1")).toEqual(["o 1", "o 2", "o 3"]);
  });

  test("standard output and error on one pipe", async () => {
    host.startShim();
    const shim = await host.client();
    const init = await host.shell("exec 2>&1; sleep 0.3; for i in 1 2 3 4; do echo o$i; echo e$i >&2; done");
    await until(
      "2>&1",
      () => existsSync(init.stdout) && statSync(`/proc/${init.pid}/fd/2`).ino === statSync(init.stdout).ino,
    );
    await host.attach(shim, "c1", { ...init, stderr: `/proc/${init.pid}/fd/2` });
    await nextExit(shim);
    await until("the lines", async () => (await host.logged("c1")).length === 8);
    expect(await host.logged("c1")).toEqual([1, 2, 3, 4].flatMap((i) => [`o o${i}`, `o e${i}`]));
  });

  test("a hundred thousand lines a second, none lost, memory flat", async () => {
    const process_ = host.startShim();
    const shim = await host.client();
    // 150,000 lines of 9 bytes go at whatever speed the reader takes them.
    const init = await host.shell("sleep 0.2; seq -f %08.0f 1 150000");
    await host.attach(shim, "c1", init);
    const startedMs = Date.now();
    await nextExit(shim);
    const tookMs = Date.now() - startedMs;
    const status = readFileSync(`/proc/${process_.pid}/status`, "utf8");
    const peakKiB = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]);
    await until("the end of the log", async () => (await host.logged("c1")).length === 150_000, 30_000);
    const lines = await host.logged("c1");
    expect(lines.every((line, i) => line === `o ${String(i + 1).padStart(8, "0")}`)).toBe(true);
    expect(peakKiB).toBeLessThan(120 * 1024);
    expect(tookMs).toBeLessThan(20_000); // a hang, not a speed, is what this finds
  });

  test.each([
    ["a path that is not there", { stdout: "/proc/1/fd/9999" }, /cannot be opened/],
    ["a file that is no pipe", { stdout: "/etc/hostname" }, /is not a pipe/],
    ["a relative folder", { dir: "logs" }, /no absolute path/],
    ["a pid that is none", { initPid: 1 }, /no container's pid/],
    [
      "an unfinished line that is too long",
      { partial: { o: Buffer.alloc(17_000).toString("base64"), e: "" } },
      /too long/,
    ],
  ])("%s is refused and changes nothing", async (_, wrong, message) => {
    host.startShim();
    const shim = await host.client();
    await expect(
      shim.attach({ container: "c1", dir: host.logDir("c1"), initPid: 0, stdout: "", stderr: "", ...wrong }),
    ).rejects.toThrow(message);
    await expect(shim.detach("c1")).rejects.toMatchObject({ code: "not-found" });
  });

  test("garbage on the socket is answered, and the shim stays", async () => {
    host.startShim();
    const shim = await host.client();
    expect(statSync(join(host.stateDir, "shim.sock")).mode & 0o777).toBe(0o600);
    const socket = host.rawClient();
    let text = "";
    socket.on("data", (piece) => (text += piece.toString()));
    socket.write('{"id":1,"op":"attach"}\nno json\n{"id":2,"op":"status"}\n');
    await until("three answers", () => text.split("\n").length === 5);
    expect(text).toMatch(/malformed[^]*not JSON[^]*"id":2,"ok":true,"containers":\[\]/);
    expect(await shim.status()).toEqual([]);
  });
});
