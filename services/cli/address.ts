/** Where the API is: --api, else $GODWIT_API, else what `godwit dev up` wrote down. */
import { readFileSync } from "node:fs";
import { GodwitError } from "../../proto/contract/error.ts";

/** Written by `godwit dev up`, removed by `godwit dev down`. */
const ADDRESS_FILE = "/run/godwit/api";

interface TlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}
export interface ApiAddress {
  readonly target: string;
  readonly tls?: TlsFiles;
}

interface Environment {
  readonly [name: string]: string | undefined;
}

/** One for each scheduler, with commas between them. Throws `invalid` with what to do when nothing names an API. */
export function apiAddresses(
  flag: string | undefined,
  env: Environment,
  file = ADDRESS_FILE,
): readonly [ApiAddress, ...ApiAddress[]] {
  const text = flag ?? nonEmpty(env["GODWIT_API"]) ?? fromFile(file) ?? noAddress(file);
  const [first = "", ...rest] = text.split(",").map((one) => one.trim());
  return [apiAddress(first, env), ...rest.map((one) => apiAddress(one, env))];
}

/** Of one scheduler. */
export function apiAddress(text: string, env: Environment): ApiAddress {
  const target = checkTarget(text);
  const [ca, cert, key] = ["GODWIT_TLS_CA", "GODWIT_TLS_CERT", "GODWIT_TLS_KEY"].map((name) =>
    nonEmpty(env[name]),
  );
  if (ca !== undefined && cert !== undefined && key !== undefined)
    return target.startsWith("unix:") ? { target } : { target, tls: { ca, cert, key } };
  if (target.startsWith("unix:") || isLoopback(target)) return { target };
  throw new GodwitError(
    "invalid",
    `${target} is on another host; give GODWIT_TLS_CA, GODWIT_TLS_CERT and GODWIT_TLS_KEY (files) to reach it encrypted`,
  );
}

const nonEmpty = (text: string | undefined): string | undefined => (text === "" ? undefined : text);
const isLoopback = (target: string): boolean => /^(localhost|127(\.[0-9]{1,3}){3}|\[::1\]):/.test(target);

function fromFile(file: string): string | undefined {
  try {
    return nonEmpty(readFileSync(file, "utf8").trim());
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw new GodwitError(
      "invalid",
      `${file} names the API and cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}

function noAddress(file: string): never {
  throw new GodwitError(
    "unavailable",
    `no API is known: 'godwit dev up' starts a cluster on this machine; for another give --api ADDRESS or $GODWIT_API (${file} does not exist)`,
  );
}

function checkTarget(text: string): string {
  // A bare path is what people type for a socket.
  const target = text.startsWith("/") ? `unix:${text}` : text;
  if (/^unix:\/[^,]+$/.test(target) || /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$/.test(target))
    return target;
  throw new GodwitError(
    "invalid",
    `${JSON.stringify(text)} is no address of an API; write unix:/PATH or HOST:PORT, and commas between several`,
  );
}
