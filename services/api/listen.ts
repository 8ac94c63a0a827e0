/** Where the API listens: unix sockets that only their owner may open, and TCP with mutual TLS. */
import { lstatSync } from "node:fs";
import { chmod, lstat, mkdir, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { dirname } from "node:path";
import { ServerCredentials, type Server } from "@grpc/grpc-js";
import { GodwitError } from "../../proto/contract/error.ts";
import type { ListenAddress, TlsFiles } from "./config.ts";

/** Binds `server` to `address`; returns how clients write it, with the real port where 0 was asked for. */
export async function bind(
  server: Server,
  address: ListenAddress,
  tls: TlsFiles | undefined,
): Promise<string> {
  if (address.kind === "unix") {
    await makeRoom(address.path);
    const target = `unix:${address.path}`;
    await bindTarget(server, target, ServerCredentials.createInsecure());
    await chmod(address.path, 0o600);
    return target;
  }
  const credentials = tls === undefined ? ServerCredentials.createInsecure() : await tlsCredentials(tls);
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  const port = await bindTarget(server, `${host}:${address.port}`, credentials);
  return `${host}:${port}`;
}

function bindTarget(server: Server, target: string, credentials: ServerCredentials): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  server.bindAsync(target, credentials, (error, port) => {
    if (error === null) resolve(port);
    else reject(new GodwitError("invalid", `cannot listen on ${target}: ${error.message}`, { cause: error }));
  });
  return promise;
}

/** Clients must show a certificate of the authority in caFile. */
async function tlsCredentials(tls: TlsFiles): Promise<ServerCredentials> {
  const read = async (path: string): Promise<Buffer> => {
    try {
      return await readFile(path);
    } catch (error) {
      throw new GodwitError("invalid", `tls: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
  };
  const [ca, key, cert] = await Promise.all([read(tls.caFile), read(tls.keyFile), read(tls.certFile)]);
  return ServerCredentials.createSsl(ca, [{ private_key: key, cert_chain: cert }], true);
}

/** A private folder for the socket, and no socket of a process that is gone. */
async function makeRoom(path: string): Promise<void> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { mode, uid } = await lstat(folder);
  if (uid !== process.getuid?.())
    throw new GodwitError("invalid", `the folder ${folder} of the socket belongs to somebody else`);
  if ((mode & 0o022) !== 0)
    throw new GodwitError(
      "invalid",
      `the folder ${folder} of the socket can be written by others; run chmod 700 ${folder}`,
    );
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new GodwitError("invalid", `${path} exists and is no socket; remove it or listen elsewhere`);
  if (await isListening(path))
    throw new GodwitError("invalid", `another process listens on ${path}; is the API running already?`);
  await rm(path);
}

function isListening(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(path);
  socket.on("connect", () => resolve(true));
  socket.on("error", () => resolve(false));
  return promise.finally(() => socket.destroy());
}
