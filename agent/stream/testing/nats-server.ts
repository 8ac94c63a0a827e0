import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

/** A real nats-server on a free port of the loopback, for tests. */
export interface TestNatsServer extends AsyncDisposable {
  readonly port: number;
  /** SIGKILL, then the same port and data again. */
  restart(): Promise<void>;
  stop(): Promise<void>;
  start(): Promise<void>;
}

const PRIVATE_BINARY = "/opt/godwit/tools/bin/nats-server";
const START_DEADLINE_MS = 10_000;

export async function startNatsServer(): Promise<TestNatsServer> {
  const folder = await mkdtemp(join(tmpdir(), "godwit-nats-"));
  const binary = existsSync(PRIVATE_BINARY) ? PRIVATE_BINARY : "nats-server";
  let stop = async (): Promise<void> => {};
  let port = -1;
  let disposed = false;

  const start = async (): Promise<void> => {
    // A test that ran out of time may go on behind the back of its clean-up.
    if (disposed) throw new Error("this nats-server has been disposed of");
    const child = spawn(
      binary,
      ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", join(folder, "data"), "--ports_file_dir", folder],
      { stdio: "ignore" },
    );
    const exited = new Promise<void>((resolve) => {
      child.once("exit", () => resolve());
      child.once("error", () => resolve());
    });
    stop = async () => {
      child.kill("SIGKILL");
      await exited;
    };
    const portsFile = join(folder, `nats-server_${child.pid}.ports`);
    for (const deadline = Date.now() + START_DEADLINE_MS; ;) {
      try {
        const ports = JSON.parse(await readFile(portsFile, "utf8")) as { nats: string[] };
        port = Number(new URL(ports.nats[0] ?? "").port);
        return;
      } catch (error) {
        if (Date.now() > deadline || child.exitCode !== null) {
          await stop();
          throw new Error("nats-server did not write its ports file in time", { cause: error });
        }
        await setTimeout(20);
      }
    }
  };

  await start();
  return {
    get port() {
      return port;
    },
    start: () => start(),
    stop: () => stop(),
    async restart() {
      await stop();
      await start();
    },
    async [Symbol.asyncDispose]() {
      disposed = true;
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
