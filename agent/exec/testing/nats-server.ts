import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

const START_DEADLINE_MS = 20_000;

/** A real nats-server on a port of its own choosing. */
export class TestNatsServer implements AsyncDisposable {
  readonly url: string;
  readonly #child: ChildProcess;
  readonly #folder: string;

  private constructor(child: ChildProcess, folder: string, url: string) {
    this.#child = child;
    this.#folder = folder;
    this.url = url;
  }

  static async start(): Promise<TestNatsServer> {
    const folder = await mkdtemp(join(tmpdir(), "godwit-nats-"));
    const tools = `${process.env["GODWIT_PREFIX"] ?? "/opt/godwit"}/tools/bin`;
    const child = spawn("nats-server", ["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder], {
      stdio: "ignore",
      env: { ...process.env, PATH: `${tools}:${process.env["PATH"] ?? ""}` },
    });
    const failed = once(child, "exit").then(([code]) => {
      throw new Error(`nats-server ended with ${String(code)}`);
    });
    failed.catch(() => undefined);
    const deadline = performance.now() + START_DEADLINE_MS;
    for (;;) {
      const name = (await readdir(folder)).find((file) => file.endsWith(".ports"));
      const text = name === undefined ? "" : await readFile(join(folder, name), "utf8");
      if (text !== "") {
        const { nats } = JSON.parse(text) as { nats: string[] };
        return new TestNatsServer(child, folder, nats[0] as string);
      }
      if (performance.now() > deadline) throw new Error("waited for nats-server's ports file");
      await Promise.race([delay(20), failed]);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    if (this.#child.exitCode === null && this.#child.signalCode === null) await ended;
    await rm(this.#folder, { recursive: true });
  }
}
