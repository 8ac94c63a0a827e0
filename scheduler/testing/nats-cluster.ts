/** Three real nats-servers that keep the log together, each with a store of its own. */
import { jetstreamManager } from "@nats-io/jetstream";
import { connect, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node";
import { connectionOptions } from "../log/connection.ts";
import { eventually } from "./eventually.ts";
import { freePort } from "./free-port.ts";
import { NatsServer } from "./nats-server.ts";

export class NatsCluster implements AsyncDisposable {
  readonly servers: readonly NatsServer[];

  private constructor(servers: readonly NatsServer[]) {
    this.servers = servers;
  }

  /** Ready to keep a stream when it returns. */
  static async start(count = 3): Promise<NatsCluster> {
    await using stack = new AsyncDisposableStack();
    const routes = await Promise.all(Array.from({ length: count }, freePort));
    const all = routes.map((port) => `"nats://127.0.0.1:${port}"`).join();
    const servers = await Promise.all(
      routes.map(async (port, at) =>
        stack.use(
          await NatsServer.start({
            extra: `server_name: nats${at + 1}\ncluster { name: test, listen: "127.0.0.1:${port}", routes: [${all}] }\n`,
          }),
        ),
      ),
    );
    const cluster = new NatsCluster(servers);
    const connection = await cluster.connect();
    try {
      await eventually(
        "the servers to agree on one that leads",
        async () => {
          try {
            await (await jetstreamManager(connection, { timeout: 500 })).getAccountInfo();
            return true;
          } catch {
            return false; // not yet
          }
        },
        30_000,
      );
    } finally {
      await connection.close();
    }
    stack.move();
    return cluster;
  }

  get urls(): string[] {
    return this.servers.map(({ url }) => url);
  }
  get settings(): NodeConnectionOptions {
    return { servers: this.urls, ...connectionOptions };
  }
  connect(): Promise<NatsConnection> {
    return connect(this.settings);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.servers.map((server) => server[Symbol.asyncDispose]()));
  }
}
