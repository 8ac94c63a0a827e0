import { fileURLToPath } from "node:url";

import { enterHostArgv } from "./bench-host.ts";

/** argv of the load, running inside a host of the cluster. */
export const loadArgv = (dataDir: string, node: string, address: string): string[] => [
  ...enterHostArgv(dataDir, node),
  ...[process.execPath, fileURLToPath(new URL("redis-load.ts", import.meta.url)), address],
];
