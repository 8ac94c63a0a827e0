import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { IMAGE_STORE, reportSubject } from "../../proto/contract/subjects.ts";
import { type ClusterPlan, NATS_PORT, ROUTE_PORT } from "./plan.ts";

/** The scheduler's and the API's user. */
export const SCHEDULER_USER = "scheduler";
/** As which nats-servers know each other. */
const ROUTE_USER = "route";
export const agentUser = (node: string): string => `agent-${node}`;
export const passwordFile = (plan: ClusterPlan, user: string): string => join(plan.secretsDir, user);

interface Permissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
  /** May answer the request that a message came with. */
  readonly allow_responses: true;
}

function schedulerPermissions(): Permissions {
  return {
    // $JS.API: streams and consumers; $O: object stores; ACK and FC: flow control of consumers.
    publish: ["godwit.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$O.>"],
    subscribe: ["godwit.>", "_INBOX.>"],
    allow_responses: true,
  };
}

/** An agent reads images and speaks for its own node; the log, other nodes' orders and the snapshots it cannot reach. */
function agentPermissions(node: string): Permissions {
  const images = `OBJ_${IMAGE_STORE}`;
  return {
    publish: [
      reportSubject(node),
      "godwit.migration.>",
      "godwit.session.>",
      "$JS.API.INFO",
      `$JS.API.STREAM.INFO.${images}`,
      `$JS.API.STREAM.MSG.GET.${images}`,
      `$JS.API.DIRECT.GET.${images}`,
      `$JS.API.DIRECT.GET.${images}.>`,
      `$JS.API.CONSUMER.CREATE.${images}`,
      `$JS.API.CONSUMER.CREATE.${images}.>`,
      `$JS.API.CONSUMER.INFO.${images}.>`,
      `$JS.API.CONSUMER.DELETE.${images}.>`,
      `$JS.API.CONSUMER.MSG.NEXT.${images}.>`,
      `$JS.FC.${images}.>`,
      `$JS.ACK.${images}.>`,
    ],
    subscribe: [`godwit.node.${node}.>`, "godwit.migration.>", "_INBOX.>"],
    allow_responses: true,
  };
}

/** Writes the servers' configurations and one password file for each user, all of them 0600. */
export function writeNatsConfig(plan: ClusterPlan): void {
  const roles: [string, Permissions][] = [
    [SCHEDULER_USER, schedulerPermissions()],
    ...plan.nodes.map(({ name }): [string, Permissions] => [agentUser(name), agentPermissions(name)]),
  ];
  const users = roles.map(([user, permissions]) => {
    const password = randomBytes(24).toString("base64url");
    writeFileSync(passwordFile(plan, user), password, { mode: 0o600 });
    return { user, password, permissions };
  });
  const template = readFileSync(join(import.meta.dirname, "../../deploy/nats/dev.conf"), "utf8");
  const routePassword = randomBytes(24).toString("base64url");
  for (const { address, configPath, name, storeDir } of plan.servers) {
    const values: { readonly [name: string]: string } = {
      name: plan.servers.length === 1 ? `godwit-dev-${plan.key}` : name,
      listen: `${address}:${NATS_PORT}`,
      store: storeDir,
      users: JSON.stringify(users, null, 2), // the configuration language takes JSON
    };
    const text = template.replace(/%\((\w+)\)/g, (whole, key: string) => values[key] ?? whole);
    writeFileSync(configPath, text + clusterSection(plan, address, routePassword), { mode: 0o600 });
  }
}

/** Nothing for a server that stands alone. */
function clusterSection(plan: ClusterPlan, own: string, password: string): string {
  if (plan.servers.length === 1) return "";
  const others = plan.servers.filter(({ address }) => address !== own);
  const section = {
    name: `godwit-dev-${plan.key}`,
    listen: `${own}:${ROUTE_PORT}`,
    authorization: { user: ROUTE_USER, password, timeout: 5 },
    routes: others.map(({ address }) => `nats://${ROUTE_USER}:${password}@${address}:${ROUTE_PORT}`),
  };
  return `cluster ${JSON.stringify(section, null, 2)}\n`;
}

/** What the server logs when clients can come. */
export const NATS_READY = "Server is ready";
