/** A way to a server that can be closed: what is sent then waits, and nobody is told. */
import { connect, createServer, type Server, type Socket } from "node:net";

export class TcpGate implements AsyncDisposable {
  readonly url: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #closed = false;

  private constructor(server: Server, url: string) {
    this.#server = server;
    this.url = url;
  }

  /** @param target "host:port" */
  static async start(target: string): Promise<TcpGate> {
    const [host = "", port = ""] = target.split(":");
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const gate = new TcpGate(server, `127.0.0.1:${(server.address() as { port: number }).port}`);
    server.on("connection", (near) => gate.#join(near, connect(Number(port), host)));
    return gate;
  }

  close(closed: boolean): void {
    this.#closed = closed;
    for (const socket of this.#sockets)
      if (closed) socket.pause();
      else socket.resume();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(near: Socket, far: Socket): void {
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.on("data", (chunk) => to.write(chunk));
      from.on("error", () => to.destroy());
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      if (this.#closed) from.pause();
    }
  }
}
