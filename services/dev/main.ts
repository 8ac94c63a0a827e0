/**
 * `godwit dev`:
 *   up [--nodes N] [--schedulers N] [--data DIR] [--lease-ms N] [--snapshot-every N] [--log-level L] [--no-announce]
 *   start [--data DIR]: what has died of it
 *   down [--data DIR]
 *   exec [--data DIR] NODE -- CMD…
 *   status [--data DIR] [-o table|json]
 * Exit: 0 done, 1 failed, 2 wrong usage, 3 refused; for exec, CMD's.
 */
import { parseArgs } from "node:util";

import { type ErrorCode, GodwitError } from "../../proto/contract/error.ts";
import { announced, listNodes } from "./api.ts";
import { DevCluster } from "./cluster.ts";
import { devDown } from "./down.ts";
import { enterHostOrExit } from "./enter.ts";
import { DEFAULT_DATA_DIR, devUp } from "./up.ts";

const USAGE = "usage: godwit dev up|start|down|exec|status [--data DIR] …; 'godwit dev --help' says more";
const HELP = `A whole cluster on this machine: each host has network, mount and cgroup namespaces of its own.

  godwit dev up [--nodes N] [--data DIR]       hosts n1 to nN (3), ready when it returns
      --schedulers 1|3|5                       schedulers, each with a nats-server of its own (1)
      --lease-ms N  --snapshot-every N  --log-level LEVEL  --no-announce
  godwit dev start [--data DIR]                starts again what has died: nats-server, the API, a host's shim
  godwit dev down [--data DIR]                 stops it and leaves nothing behind
  godwit dev exec [--data DIR] NODE -- CMD…    runs a command inside that host
  godwit dev status [--data DIR] [-o json]     its processes, and whether the API answers

--data is ${DEFAULT_DATA_DIR} unless GODWIT_DEV_DATA or the flag says otherwise.
`;
const EXIT_CODES: { readonly [code in ErrorCode]?: number } = { invalid: 2, refused: 3 };

const data = {
  data: { type: "string", default: process.env["GODWIT_DEV_DATA"] ?? DEFAULT_DATA_DIR },
} as const;

function count(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^[1-9]\d{0,8}$/.test(text))
    throw new GodwitError("invalid", `--${name} must be a whole number, not '${text}'`);
  return Number(text);
}

async function up(args: string[]): Promise<void> {
  const options = {
    ...data,
    nodes: { type: "string" },
    schedulers: { type: "string" },
    "lease-ms": { type: "string" },
    "snapshot-every": { type: "string" },
    "log-level": { type: "string" },
    "no-announce": { type: "boolean", default: false },
  } as const;
  const { values } = parseArgs({ args, options });
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () =>
      stop.abort(new GodwitError("cancelled", `stopped by ${signal}; nothing is left`)),
    );
  }
  const nodes = count("nodes", values.nodes);
  const schedulers = count("schedulers", values.schedulers);
  const leaseMs = count("lease-ms", values["lease-ms"]);
  const snapshotEvery = count("snapshot-every", values["snapshot-every"]);
  const cluster = await devUp({
    dataDir: values.data,
    announce: !values["no-announce"],
    signal: stop.signal,
    onProgress: (step) => process.stderr.write(`godwit dev: ${step}\n`),
    ...(nodes === undefined ? {} : { nodes }),
    ...(schedulers === undefined ? {} : { schedulers }),
    ...(leaseMs === undefined ? {} : { leaseMs }),
    ...(snapshotEvery === undefined ? {} : { snapshotEvery }),
    ...(values["log-level"] === undefined ? {} : { logLevel: values["log-level"] }),
  });
  const where = cluster.dataDir === DEFAULT_DATA_DIR ? "" : ` --data ${cluster.dataDir}`;
  const [first] = cluster.nodes;
  process.stdout.write(
    [
      `A cluster of ${cluster.nodes.length} is up: ${cluster.nodes.map(({ name }) => name).join(", ")}.`,
      `  API    ${cluster.api}`,
      `  logs   ${cluster.dataDir}/logs`,
      "Go on with:",
      `  godwit ${announced() === cluster.api ? "" : `--api ${cluster.api} `}status`,
      `  godwit dev exec${where} ${first?.name ?? "n1"} -- ip address`,
      `  godwit dev down${where}`,
      "",
    ].join("\n"),
  );
}

async function start(args: string[]): Promise<void> {
  const { values } = parseArgs({ args, options: data });
  const started = await DevCluster.open(values.data).startDead();
  process.stdout.write(started.length === 0 ? "Everything runs.\n" : `Started ${started.join(", ")}.\n`);
}

async function down(args: string[]): Promise<void> {
  const { values } = parseArgs({ args, options: data });
  const removed = await devDown(values.data);
  process.stdout.write(
    removed.length === 0 ? "There was nothing to remove.\n" : `Removed ${removed.join(", ")}.\n`,
  );
}

function exec(args: string[]): never {
  // What follows "--" is the command's own; options of ours stand before it.
  const at = args.indexOf("--");
  const { values, positionals } = parseArgs({
    args: at < 0 ? args : args.slice(0, at),
    options: data,
    allowPositionals: true,
  });
  const [node, ...rest] = positionals;
  const argv = at < 0 ? rest : args.slice(at + 1);
  if (node === undefined || argv.length === 0 || (at >= 0 && rest.length > 0)) {
    throw new GodwitError("invalid", "usage: godwit dev exec [--data DIR] NODE -- CMD…");
  }
  return enterHostOrExit(values.data, node, argv);
}

async function status(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: { ...data, output: { type: "string", short: "o", default: "table" } },
  });
  const cluster = DevCluster.open(values.data);
  const nodes = await listNodes(cluster.api);
  const report = {
    dataDir: cluster.dataDir,
    api: cluster.api,
    apiAnswers: nodes !== undefined,
    processes: cluster.processes(),
  };
  if (values.output === "json") process.stdout.write(`${JSON.stringify(report)}\n`);
  else {
    process.stdout.write(
      `${cluster.dataDir}: ${cluster.api} ${nodes === undefined ? "does not answer" : "answers"}\n`,
    );
    for (const { name, pid, lives } of report.processes) {
      process.stdout.write(`  ${name.padEnd(6)} ${lives ? `process ${pid}` : "dead"}\n`);
    }
  }
  if (nodes === undefined || report.processes.some(({ lives }) => !lives)) process.exitCode = 1;
}

const verbs: { readonly [verb: string]: (args: string[]) => Promise<void> | never } = {
  up,
  start,
  down,
  exec,
  status,
};
try {
  const [verb = "", ...args] = process.argv.slice(2);
  const own = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  const asksForHelp = [verb, ...(verb === "exec" ? own.slice(0, 1) : own)].some((word) =>
    ["--help", "-h"].includes(word),
  );
  const run = Object.hasOwn(verbs, verb) ? verbs[verb] : undefined;
  if (asksForHelp || verb === "help") process.stdout.write(HELP);
  else if (run === undefined) throw new GodwitError("invalid", USAGE);
  else await run(args);
} catch (error) {
  const isUsage =
    error instanceof TypeError && String(Reflect.get(error, "code")).startsWith("ERR_PARSE_ARGS");
  const { message, code } = GodwitError.from(error, isUsage ? "invalid" : "internal");
  process.stderr.write(`godwit dev: ${message.split("\n").join(" ")}\n`);
  process.exitCode = EXIT_CODES[code] ?? 1;
}
