import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { IMAGE_STORE, REPORT_SUBJECT } from "../../proto/contract/subjects.ts";
import { type ClusterPlan, CONTROL_ADDRESS, NATS_PORT } from "./plan.ts";

/** The scheduler's and the API's user. */
export const SCHEDULER_USER = "scheduler";
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
      REPORT_SUBJECT,
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

/** Writes the server's configuration and one password file for each user, all of them 0600. */
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
  const values: { readonly [name: string]: string } = {
    name: `godwit-dev-${plan.key}`,
    listen: `${CONTROL_ADDRESS}:${NATS_PORT}`,
    store: plan.natsDir,
    users: JSON.stringify(users, null, 2), // the configuration language takes JSON
  };
  const text = template.replace(/%\((\w+)\)/g, (whole, name: string) => values[name] ?? whole);
  writeFileSync(plan.natsConfigPath, text, { mode: 0o600 });
}

/** What the server logs when clients can come. */
export const NATS_READY = "Server is ready";
