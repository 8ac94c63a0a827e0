import type { Baseline } from "./baseline.ts";
import type { BenchAddress } from "./bench-address.ts";
import type { BenchHost } from "./bench-host.ts";
import { LoadClient } from "./load-client.ts";
import { type MoveSample, seen, type Series, type SeriesPlan } from "./series.ts";

export interface BaselineHosts {
  readonly first: BenchHost;
  readonly second: BenchHost;
  readonly address: BenchAddress;
  readonly clientArgv: readonly string[];
}

/** One container, moved to and fro between the two hosts, under the load of a client on the third. */
export async function measureBaseline(
  baseline: Baseline,
  hosts: BaselineHosts,
  plan: SeriesPlan,
): Promise<Series> {
  const samples: MoveSample[] = [];
  let note = "";
  try {
    await measureInto(samples, baseline, hosts, plan);
  } catch (error) {
    note = error instanceof Error ? error.message : String(error);
  }
  const { sizeMegabytes, writeMegabytesPerSecond, processes } = plan;
  return { sizeMegabytes, writeMegabytesPerSecond, processes, method: baseline.name, samples, note };
}

async function measureInto(
  samples: MoveSample[],
  baseline: Baseline,
  hosts: BaselineHosts,
  plan: SeriesPlan,
): Promise<void> {
  const { address } = hosts;
  let [from, to] = [hosts.first, hosts.second];
  await address.attach(from);
  await address.routeTo(from);
  await baseline.start(from);
  {
    await using client = new LoadClient(hosts.clientArgv);
    await client.fill(plan.sizeMegabytes);
    await client.rate(plan.writeMegabytesPerSecond);
    for (let round = -plan.warmups; round < plan.rounds; round += 1) {
      await address.attach(to);
      await client.mark();
      const startedAt = performance.now();
      const move = await baseline.move(from, to);
      const totalMs = performance.now() - startedAt;
      const window = await client.mark();
      await address.detach(from);
      await baseline.tidy(from);
      [from, to] = [to, from];
      const sample: MoveSample = {
        ...seen(window),
        totalMs,
        sentBytes: move.imageBytes,
        phasesMs: move.phasesMs,
        requests: window.requests,
        writtenBytes: window.writtenBytes,
      };
      if (round >= 0) samples.push(sample);
      if (!sample.isIntact) throw new Error(`the client: ${sample.error || "a wrong answer"}`);
    }
  }
  await baseline.remove(from);
  await address.detach(from);
}
