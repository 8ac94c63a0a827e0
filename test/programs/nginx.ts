import { expect } from "vitest";

import type { TestCluster } from "../e2e/cluster.ts";
import { GeneratorContainer } from "./program.ts";

const CONFIGURATION = `
user www-data; worker_processes 3; daemon off; error_log stderr notice; pid /run/nginx.pid;
events { worker_connections 512; }
http {
  log_format sequence "$connection $connection_requests $status";
  access_log /var/log/nginx/access.log sequence;
  keepalive_requests 100000000; keepalive_timeout 1h;
  server { listen 80; root /var/www; }
}`;
const START = `
head -c 20000 /dev/zero | tr '\\0' x > /var/www/index.html
echo "$CONFIGURATION" > /etc/nginx.conf
exec nginx -c /etc/nginx.conf`;

/** nginx on n1 with wrk's container on n3. */
export async function startNginx(
  cluster: TestCluster,
): Promise<{ address: string; generator: GeneratorContainer }> {
  await cluster.must(
    ...["run", "--node", "n1", "--memory", "128m", "--stop-signal", "SIGQUIT"],
    ...["-e", `CONFIGURATION=${CONFIGURATION}`, "web", "nginx", "--", "sh", "-c", START],
  );
  const { address } = await cluster.container("web");
  // Enough to be at work all the time, and not all that the machine has.
  return { address, generator: await GeneratorContainer.start(cluster, "nginx", "--cpus", "0.2") };
}

/** wrk's summary: how many requests; fails unless every one was answered, with 200. */
export function expectAllAnswered(summary: string): number {
  expect(summary).not.toMatch(/Socket errors|Non-2xx/);
  const requests = Number(/(\d+) requests in/.exec(summary)?.[1] ?? 0);
  expect(requests, summary).toBeGreaterThan(100);
  const longest = /Latency\s+\S+\s+\S+\s+(\S+)/.exec(summary)?.[1];
  process.stdout.write(`nginx: ${requests} requests, the longest of them took ${longest}\n`);
  return requests;
}

/** What nginx itself wrote down of each request: connections, requests, and breaks in a connection's count. */
export async function readAccessLog(
  cluster: TestCluster,
): Promise<{ connections: number; requests: number; breaks: number }> {
  const script = `awk '{ if ($2 != ++n[$1] || $3 != 200) breaks++ } END { for (c in n) connections++; print connections + 0, NR, breaks + 0 }' /var/log/nginx/access.log`;
  const [connections = 0, requests = 0, breaks = 0] = (await cluster.sh("web", script))
    .split(" ")
    .map(Number);
  return { connections, requests, breaks };
}
