import { closeSync } from "node:fs";
import { request } from "node:http";
import { Socket } from "node:net";

import { GodwitError } from "../../proto/contract/error.ts";
import type { HttpProbe } from "../../proto/gen/godwit/v1/spec.ts";
import { connectLoopback } from "../native/loopback-connection.ts";

/** What one look at a container has shown. */
export interface Finding {
  readonly succeeded: boolean;
  /** For people; at most OUTPUT_BYTES. */
  readonly output: string;
}

export const OUTPUT_BYTES = 400;
/** An answer is read up to here, so that its end is seen; more of it is of no interest. */
const BODY_BYTES = 64 * 1024;

export const bounded = (text: string): string => {
  const plain = text.trim();
  return plain.length > OUTPUT_BYTES ? `…${plain.slice(1 - OUTPUT_BYTES)}` : plain;
};

/** Throws only what the signal says; everything else is a finding. */
export async function probeTcp(networkPath: string, port: number, signal: AbortSignal): Promise<Finding> {
  try {
    closeSync(await connectLoopback(networkPath, port, signal));
    return { succeeded: true, output: `port ${port} takes connections` };
  } catch (error) {
    signal.throwIfAborted();
    return { succeeded: false, output: bounded(GodwitError.from(error).message) };
  }
}

export async function probeHttp(
  networkPath: string,
  { path, port }: HttpProbe,
  signal: AbortSignal,
): Promise<Finding> {
  try {
    const socket = new Socket({ fd: await connectLoopback(networkPath, port, signal) });
    try {
      const { body, status } = await get(socket, path, port, signal);
      const succeeded = status >= 200 && status < 400;
      return {
        succeeded,
        output: bounded(`${path} answers ${status}${succeeded || body === "" ? "" : `: ${body}`}`),
      };
    } finally {
      socket.destroy();
    }
  } catch (error) {
    signal.throwIfAborted();
    return { succeeded: false, output: bounded(GodwitError.from(error).message) };
  }
}

function get(
  socket: Socket,
  path: string,
  port: number,
  signal: AbortSignal,
): Promise<{ status: number; body: string }> {
  const { promise, reject, resolve } = Promise.withResolvers<{ status: number; body: string }>();
  const call = request({
    createConnection: () => socket,
    host: "127.0.0.1",
    port,
    path,
    method: "GET",
    signal,
    headers: { connection: "close", "user-agent": "godwit-health-check" },
    maxHeaderSize: 16 * 1024,
  });
  call.on("error", reject);
  call.on("response", (response) => {
    const status = response.statusCode ?? 0;
    let body = "";
    const done = (): void => resolve({ status, body: body.slice(0, OUTPUT_BYTES) });
    response.setEncoding("utf8");
    response.on("data", (text: string) => {
      body += text;
      if (body.length < BODY_BYTES) return;
      done();
      socket.destroy();
    });
    response.on("end", done);
    response.on("error", reject);
  });
  call.end();
  return promise;
}
