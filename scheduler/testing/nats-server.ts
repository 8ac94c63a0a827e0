/** A real nats-server on a port and a store folder of its own, for tests. */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { once } from "node:events";
import { connect, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node";
import { connectionOptions } from "../log/connection.ts";
import { eventually } from "./eventually.ts";
import { freePort } from "./free-port.ts";

const binary = (): string => {
  const places = [
    ...(process.env["PATH"] ?? "").split(delimiter),
    join(process.env["GODWIT_PREFIX"] ?? "/opt/godwit", "tools/bin"),
  ];
  const found = places.map((place) => join(place, "nats-server")).find((path) => existsSync(path));
  if (found === undefined) throw new Error("nats-server is missing: run deploy/setup.sh");
  return found;
};

export class NatsServer implements AsyncDisposable {
  readonly folder: string;
  #child: ChildProcess | undefined;
  readonly #port: number;

  private constructor(folder: string, port: number) {
    this.folder = folder;
    this.#port = port;
  }

  /** @param options more lines for its configuration */
  static async start({ extra = "" } = {}): Promise<NatsServer> {
    const server = new NatsServer(await mkdtemp(join(tmpdir(), "godwit-nats-")), await freePort());
    try {
      await writeFile(
        join(server.folder, "nats.conf"),
        `jetstream { store_dir: "${join(server.folder, "store")}", sync_interval: always, max_file: 16GB }\n${extra}`,
      );
      await server.launch();
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  get url(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** Starts it (again), on the port that it had. */
  async launch(): Promise<void> {
    const child = spawn(
      binary(),
      [
        "-c",
        join(this.folder, "nats.conf"),
        "-a",
        "127.0.0.1",
        "-p",
        String(this.#port),
        "--ports_file_dir",
        this.folder,
      ],
      { stdio: "ignore" },
    );
    this.#child = child;
    const portsFile = `nats-server_${child.pid}.ports`;
    // It writes down its ports once it listens on them.
    await eventually("nats-server to write its ports file", async () => {
      if (child.exitCode !== null) throw new Error(`nats-server exited with ${child.exitCode}`);
      if (!(await readdir(this.folder)).includes(portsFile)) return false;
      const { nats } = JSON.parse((await readFile(join(this.folder, portsFile), "utf8")) || "{}") as {
        nats?: string[];
      };
      return nats?.[0] !== undefined;
    });
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  }

  get settings(): NodeConnectionOptions {
    return { servers: this.url, ...connectionOptions };
  }
  async connect(): Promise<NatsConnection> {
    return connect(this.settings);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.folder, { recursive: true, force: true });
  }
}
