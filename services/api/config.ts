/** The API's configuration file. Pure: text in, settings or an error that names the field out. */
import { GodwitError } from "../../proto/contract/error.ts";

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** The other side must show a certificate that this authority signed. */
  readonly caFile: string;
}
export type ListenAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
type LogLevel = (typeof LOG_LEVELS)[number];

export interface ApiConfig {
  readonly schedulerId: string;
  readonly natsUrl: string;
  readonly nats?: { readonly user: string; readonly passwordFile: string };
  /** For a NATS that wants a certificate of its clients, and speaks TLS from the first byte. */
  readonly natsTls?: TlsFiles;
  readonly listen: readonly ListenAddress[];
  /** Where clients reach this API, as they write it; told by the schedulers that stand by while this one leads. */
  readonly advertise: readonly string[];
  readonly tls?: TlsFiles;
  /** For what an import needs while it runs. */
  readonly dataDir: string;
  readonly leaseMs: number;
  /** A leader that is silent for longer is replaced; absent: the scheduler's own default. */
  readonly leaderLeaseMs?: number;
  readonly replicas: number;
  readonly snapshotEvery: number;
  /** Of one image, uncompressed; also of one archive as it is sent. */
  readonly maxImageBytes: number;
  readonly logLevel: LogLevel;
}

const KNOWN = [
  "schedulerId",
  "natsUrl",
  "natsUser",
  "natsPasswordFile",
  "natsTls",
  "listen",
  "advertise",
  "tls",
  "dataDir",
  "leaseMs",
  "leaderLeaseMs",
  "replicas",
  "snapshotEvery",
  "maxImageBytes",
  "logLevel",
];
/** sockaddr_un holds 108 bytes with the NUL at the end (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;

const wrong = (message: string): GodwitError => new GodwitError("invalid", message);

/** Throws `invalid` naming the first field that is wrong. */
export function parseConfig(text: string): ApiConfig {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw wrong(`not valid JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw wrong("must be one JSON object");
  const fields = new Map(Object.entries(json));
  for (const name of fields.keys()) {
    if (!KNOWN.includes(name))
      throw wrong(`${JSON.stringify(name)} is not a setting; known are ${KNOWN.join(", ")}`);
  }
  const read = new Fields(fields);
  const natsUser = read.optionalText("natsUser");
  const passwordFile = read.optionalText("natsPasswordFile");
  if ((natsUser === undefined) !== (passwordFile === undefined))
    throw wrong("natsUser and natsPasswordFile belong together: give both or none");
  const natsTls = parseTls("natsTls", fields.get("natsTls"));
  const tls = parseTls("tls", fields.get("tls"));
  const replicas = read.integer("replicas", 1, 1, 5);
  if (replicas % 2 === 0) throw wrong(`replicas must be 1, 3 or 5, not ${replicas}`);
  const level = read.optionalText("logLevel") ?? "info";
  const logLevel = LOG_LEVELS.find((known) => known === level);
  if (logLevel === undefined)
    throw wrong(`logLevel must be one of ${LOG_LEVELS.join(", ")}, not ${JSON.stringify(level)}`);
  const listen = parseListen(fields.get("listen"), tls !== undefined);
  const leaseMs = read.integer("leaseMs", 15_000, 1_000, 3_600_000);
  return {
    schedulerId: read.text("schedulerId"),
    natsUrl: checkUrl(read.text("natsUrl")),
    ...(natsUser === undefined || passwordFile === undefined
      ? {}
      : { nats: { user: natsUser, passwordFile } }),
    ...(natsTls === undefined ? {} : { natsTls }),
    listen,
    advertise: parseAdvertised(fields.get("advertise")) ?? reachable(listen),
    ...(tls === undefined ? {} : { tls }),
    dataDir: checkAbsolute("dataDir", read.text("dataDir")),
    leaseMs,
    ...(fields.has("leaderLeaseMs")
      ? { leaderLeaseMs: read.integer("leaderLeaseMs", 3_000, 500, leaseMs) }
      : {}),
    replicas,
    snapshotEvery: read.integer("snapshotEvery", 1_000, 1, 1_000_000),
    maxImageBytes: read.integer("maxImageBytes", 32 * 2 ** 30, 2 ** 20, 2 ** 50),
    logLevel,
  };
}

class Fields {
  readonly #fields: ReadonlyMap<string, unknown>;
  constructor(fields: ReadonlyMap<string, unknown>) {
    this.#fields = fields;
  }
  optionalText(name: string): string | undefined {
    const value = this.#fields.get(name);
    if (value === undefined) return undefined;
    if (typeof value !== "string" || value === "") throw wrong(`${name} must be a text that is not empty`);
    return value;
  }
  text(name: string): string {
    const value = this.optionalText(name);
    if (value === undefined) throw wrong(`${name} is missing`);
    return value;
  }
  integer(name: string, byDefault: number, least: number, most: number): number {
    const value = this.#fields.get(name) ?? byDefault;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < least || value > most) {
      throw wrong(`${name} must be a whole number from ${least} to ${most}, not ${JSON.stringify(value)}`);
    }
    return value;
  }
}

function checkUrl(text: string): string {
  for (const part of text.split(",")) {
    if (!/^((nats|tls):\/\/)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$/.test(part)) {
      throw wrong(
        `natsUrl: ${JSON.stringify(part)} is not of the form nats://HOST:PORT (users and passwords have settings of their own)`,
      );
    }
  }
  return text;
}

function checkAbsolute(name: string, path: string): string {
  if (!path.startsWith("/")) throw wrong(`${name} must be an absolute path, not ${JSON.stringify(path)}`);
  return path;
}

function parseTls(setting: string, value: unknown): TlsFiles | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw wrong(`${setting} must be an object with certFile, keyFile and caFile`);
  const fields = new Map(Object.entries(value));
  const path = (name: string): string => {
    const text: unknown = fields.get(name);
    if (typeof text !== "string")
      throw wrong(`${setting}.${name} is missing; certFile, keyFile and caFile are all needed`);
    return checkAbsolute(`${setting}.${name}`, text);
  };
  return { certFile: path("certFile"), keyFile: path("keyFile"), caFile: path("caFile") };
}

/** Addresses as the CLI takes them. */
function parseAdvertised(value: unknown): string[] | undefined {
  if (value === undefined) return undefined;
  if (!Array.isArray(value))
    throw wrong('advertise must be a list of addresses such as ["api-1.example:7443"]');
  return value.map((entry: unknown) => {
    if (
      typeof entry !== "string" ||
      !/^(unix:\/[^,]+|(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$/.test(entry)
    )
      throw wrong(`advertise: ${JSON.stringify(entry)} is neither unix:/PATH nor HOST:PORT`);
    return entry;
  });
}

/** What stands for every address of this machine says nothing to others. */
function reachable(listen: readonly ListenAddress[]): string[] {
  return listen.flatMap((address) => {
    if (address.kind === "unix") return `unix:${address.path}`;
    if (["0.0.0.0", "::"].includes(address.host)) return [];
    return `${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
  });
}

function parseListen(value: unknown, tls: boolean): ListenAddress[] {
  if (!Array.isArray(value) || value.length === 0)
    throw wrong('listen must be a list of addresses such as ["unix:/run/godwit/api.sock"]');
  return value.map((entry: unknown) => {
    if (typeof entry !== "string") throw wrong("listen must be a list of texts");
    if (entry.startsWith("unix:")) {
      const path = checkAbsolute("listen", entry.slice("unix:".length));
      if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES)
        throw wrong(
          `listen: the path ${path} is longer than the ${MAX_SOCKET_PATH_BYTES} bytes that a socket's path may have`,
        );
      return { kind: "unix", path };
    }
    const match = /^(\[([0-9a-fA-F:.]+)\]|([^:]+)):([0-9]{1,5})$/.exec(entry);
    const host = match?.[2] ?? match?.[3];
    const port = Number(match?.[4]);
    if (host === undefined || port > 65_535)
      throw wrong(`listen: ${JSON.stringify(entry)} is neither unix:/PATH nor HOST:PORT`);
    if (!tls && !isLoopback(host)) {
      throw wrong(
        `listen: ${entry} would be open to the network without encryption; give tls, or listen on 127.0.0.1 or a unix socket`,
      );
    }
    return { kind: "tcp", host, port };
  });
}

const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || /^127(\.[0-9]{1,3}){3}$/.test(host);
