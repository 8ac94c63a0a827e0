import { cpSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { TestCluster } from "../e2e/cluster.ts";

/** A cluster takes its logs along: these are kept for whoever looks for a cause. Answers where. */
export function keepLogs(cluster: TestCluster, name: string): string {
  const folder = join(tmpdir(), `godwit-${name.replaceAll(/[^\w.-]+/g, "-")}-${process.pid}`);
  cpSync(join(cluster.dev.dataDir, "logs"), folder, { recursive: true });
  return folder;
}
