/** Serves exec until it is killed: the part of an agent that a test can spare. */
import { connect } from "@nats-io/transport-node";
import { pino } from "pino";

import { serveExec } from "../exec-service.ts";

const [url = "", containerId = "", scratchDir = "", ...runcArguments] = process.argv.slice(2);
await serveExec({
  connection: await connect({ servers: url }),
  node: "n1",
  host: {
    lookup: (id) => (id === containerId ? { state: "running", detail: "" } : undefined),
    runcPath: "runc",
    runcArguments,
    defaults: () => ({ env: ["PATH=/bin"], cwd: "/" }),
  },
  scratchDir,
  logger: pino({ level: "silent" }),
  signal: new AbortController().signal,
});
console.log("serving");
