/** Sets Godwit up on virtual machines from what deploy/ ships, in the way that README.md tells an operator. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import type { VirtualMachine } from "./machine.ts";

const repo = fileURLToPath(new URL("../..", import.meta.url));
const NATS_PORT = 4222;
const API_PORT = 7443;
/** Where the API listens on its host. */
export const API_SOCKET = "/run/godwit-api/api.sock";

/** The first machine gets NATS, scheduler and API; every one gets an agent whose node is named as the machine. */
export async function install(machines: readonly VirtualMachine[], runDir: string): Promise<void> {
  const [control] = machines;
  if (control === undefined) throw new Error("no machine to install on");
  const tls = `${runDir}/tls`;
  const passwords = new Map<string, string>();
  for (const user of ["scheduler", ...machines.map(({ name }) => `agent-${name}`)])
    passwords.set(user, randomBytes(18).toString("base64url"));
  for (const [name, address] of [
    ...["nats", "api", "operator"].map((name) => [name, control.address] as const),
    ...machines.map((machine) => [machine.name, machine.address] as const),
  ]) {
    await promisify(execFile)(`${repo}deploy/certificates.sh`, [tls, name, address]);
  }
  await installControl(control, machines, tls, passwords);
  await Promise.all(
    machines.map((machine) =>
      installAgent(machine, control.address, tls, passwords.get(`agent-${machine.name}`) ?? ""),
    ),
  );
}

async function installControl(
  machine: VirtualMachine,
  machines: readonly VirtualMachine[],
  tls: string,
  passwords: ReadonlyMap<string, string>,
): Promise<void> {
  const config = natsConfig(
    readFileSync(`${repo}deploy/nats/cluster.conf`, "utf8"),
    machine.address,
    machines.map(({ name }) => name),
    passwords,
  );
  await machine.sh("useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin nats");
  await machine.writeFile("/etc/godwit/nats.conf", config);
  await copyTls(machine, tls, "nats");
  await machine.sh(
    "chmod 755 /etc/godwit /etc/godwit/tls; chown nats:nats /etc/godwit/nats.conf /etc/godwit/tls/nats.key",
  );
  await copyTls(machine, tls, "api");
  const credentials = "/run/credentials/godwit-api.service";
  const files = {
    certFile: "/etc/godwit/tls/api.crt",
    keyFile: `${credentials}/api.key`,
    caFile: "/etc/godwit/tls/ca.crt",
  };
  await machine.writeFile("/etc/godwit/api-nats-password", passwords.get("scheduler") ?? "");
  await machine.writeFile(
    "/etc/godwit/api.json",
    JSON.stringify({
      schedulerId: "s1",
      // An agent on an emulated processor takes a minute to start.
      leaseMs: 240_000,
      natsUrl: `tls://${machine.address}:${NATS_PORT}`,
      natsUser: "scheduler",
      natsPasswordFile: `${credentials}/nats-password`,
      natsTls: files,
      dataDir: "/var/lib/godwit-api",
      listen: [`unix:${API_SOCKET}`, `${machine.address}:${API_PORT}`],
      tls: files,
    }),
  );
  await enable(machine, ["nats-server", "godwit-api"]);
}

async function installAgent(
  machine: VirtualMachine,
  nats: string,
  tls: string,
  password: string,
): Promise<void> {
  await copyTls(machine, tls, machine.name);
  await machine.writeFile("/etc/godwit/nats-password", password);
  await machine.writeFile(
    "/etc/godwit/agent.json",
    JSON.stringify({
      node: machine.name,
      stateDir: "/var/lib/godwit/state",
      dataDir: "/var/lib/godwit/data",
      natsUrl: `tls://${nats}:${NATS_PORT}`,
      natsUser: `agent-${machine.name}`,
      natsPasswordFile: "/etc/godwit/nats-password",
      natsTls: {
        certFile: `/etc/godwit/tls/${machine.name}.crt`,
        keyFile: `/etc/godwit/tls/${machine.name}.key`,
        caFile: "/etc/godwit/tls/ca.crt",
      },
      underlayAddress: machine.address,
    }),
  );
  await enable(machine, ["godwit-containers", "godwit-agent"]);
}

async function enable(machine: VirtualMachine, units: readonly string[]): Promise<void> {
  const files = units.map((unit) => `/opt/godwit/app/deploy/systemd/${unit}.service`).join(" ");
  await machine.sh(`cp ${files} /etc/systemd/system/ && systemctl daemon-reload`);
  await machine.sh(
    `systemctl enable --quiet --now ${units.join(" ")} || { journalctl --no-pager -n 20 -o cat -u '${units.join("' -u '")}' >&2; false; }`,
  );
}

async function copyTls(machine: VirtualMachine, tls: string, name: string): Promise<void> {
  for (const [file, mode] of [
    ["ca.crt", "644"],
    [`${name}.crt`, "644"],
    [`${name}.key`, "600"],
  ] as const) {
    await machine.writeFile(`/etc/godwit/tls/${file}`, readFileSync(`${tls}/${file}`, "utf8"), mode);
  }
}

/** deploy/nats/cluster.conf for one server: with these addresses and passwords, a user a node, and no other servers. */
function natsConfig(
  template: string,
  address: string,
  nodes: readonly string[],
  passwords: ReadonlyMap<string, string>,
): string {
  const replace = (text: string, pattern: RegExp, by: (found: string) => string): string => {
    if (!pattern.test(text))
      throw new Error(`deploy/nats/cluster.conf has nothing like ${pattern.source} any more`);
    return text.replace(pattern, by);
  };
  const password = (user: string) => (block: string) =>
    block.replace(/password: "[^"]*"/, `password: "${passwords.get(user) ?? ""}"`);
  let text = replace(template, /^cluster \{[\s\S]*?^\}\n/m, () => "");
  text = replace(text, /10\.0\.0\.1/g, () => address);
  text = replace(text, /\{ user: scheduler,[^\n]*/, password("scheduler"));
  return replace(text, /^ {4}\{ user: "agent-n1"[\s\S]*?^ {4}\} \}\n/m, (block) =>
    nodes
      .map((node) =>
        password(`agent-${node}`)(
          block
            .replaceAll("agent-n1", `agent-${node}`)
            .replaceAll("node.n1.", `node.${node}.`)
            .replaceAll("report.n1", `report.${node}`),
        ),
      )
      .join(""),
  );
}
