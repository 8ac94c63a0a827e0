/** Writers of one log on a real nats-server, without a scheduler around them. */
import type { NatsConnection } from "@nats-io/transport-node";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import { Committer, type CommitterOptions } from "../log/committer.ts";
import { JetStreamLog } from "../log/jetstream-log.ts";
import type { LogStore } from "../log/log-store.ts";
import { NatsLink } from "../log/link.ts";
import { thisMachine } from "../log/machine.ts";
import { Replica } from "../log/replica.ts";
import { command } from "../plan/command.ts";
import { NatsServer } from "./nats-server.ts";
import { sampleNode, silent } from "./sample.ts";

export interface Member {
  readonly committer: Committer;
  readonly replica: Replica;
  readonly log: JetStreamLog;
}

export class LogMembers implements AsyncDisposable {
  readonly server: NatsServer;
  readonly connection: NatsConnection;
  readonly stack: AsyncDisposableStack;

  private constructor(server: NatsServer, connection: NatsConnection, stack: AsyncDisposableStack) {
    this.server = server;
    this.connection = connection;
    this.stack = stack;
  }
  static async start(): Promise<LogMembers> {
    const stack = new AsyncDisposableStack();
    const server = stack.use(await NatsServer.start());
    const connection = await server.connect();
    stack.defer(() => connection.close());
    return new LogMembers(server, connection, stack);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }

  async connect(): Promise<NatsConnection> {
    const connection = await this.server.connect();
    this.stack.defer(() => connection.close());
    return connection;
  }
  /** A writer that has read the log. */
  async member(
    schedulerId: string,
    options: {
      on?: NatsConnection;
      deadlineMs?: number;
      wrap?: (log: LogStore) => LogStore;
      replica?: Replica;
      reload?: CommitterOptions["reload"];
    } = {},
  ): Promise<Member> {
    const on = options.on ?? this.connection;
    const log = await JetStreamLog.open(on, { replicas: 1, writer: schedulerId });
    const replica = options.replica ?? new Replica();
    const committer = this.stack.use(
      new Committer({
        schedulerId,
        log: options.wrap?.(log) ?? log,
        replica,
        link: new NatsLink(on, Date.now, silent),
        machine: thisMachine(),
        logger: silent,
        ...(options.reload === undefined ? {} : { reload: options.reload }),
        ...(options.deadlineMs === undefined ? {} : { deadlineMs: options.deadlineMs }),
      }),
    );
    await committer.synchronize();
    return { committer, replica, log };
  }
  /** The state as somebody finds it who reads the log from its beginning. */
  async replayed(): Promise<Replica> {
    const log = await JetStreamLog.open(this.connection, { replicas: 1, writer: "replay" });
    const replica = new Replica();
    const { first, last } = await log.bounds();
    for await (const entry of log.read(first, last)) replica.apply(entry);
    return replica;
  }
}

/** Something small to put into the log. */
export const join = (name: string): Command =>
  command("nodeJoined", { info: sampleNode(name), incarnation: name });
export const nodesOf = ({ replica }: Member): string[] => Object.keys(replica.cluster.state.nodes).toSorted();
