/**
 * A client of a service whose addresses it is given: each line on standard input names those that should serve, and is
 * answered by a line of JSON that says which one did, after how many that did not. Runs inside a host of the cluster.
 */
import { connect } from "node:net";
import { createInterface } from "node:readline";

const PORT = 6379;
const PATIENCE_MS = 1_000;

const ping = (host: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ host, port: PORT, timeout: PATIENCE_MS });
    const end = (served: boolean): void => {
      socket.destroy();
      resolve(served);
    };
    socket.once("connect", () => socket.write("PING\r\n"));
    socket.once("data", (data) => end(data.toString().startsWith("+PONG")));
    for (const event of ["error", "timeout", "close"]) socket.once(event, () => end(false));
  });

for await (const line of createInterface({ input: process.stdin })) {
  let failed = 0;
  let by: string | null = null;
  for (const address of line.split(" ").filter(Boolean)) {
    if (await ping(address)) {
      by = address;
      break;
    }
    failed += 1;
  }
  process.stdout.write(`${JSON.stringify({ by, failed })}\n`);
}
