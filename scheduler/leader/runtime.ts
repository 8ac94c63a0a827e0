import type { Runtime } from "../public.ts";
import { standstillOf } from "../plan/standstill.ts";
import { observedOn } from "../plan/volatile.ts";
import type { Cluster } from "../state/cluster.ts";
import { loadOf, type Reports } from "./reports.ts";

const NOTHING: Runtime = { node: () => undefined, container: () => undefined, migration: () => undefined };

/** What the reports say about things that the state knows. */
export const runtimeOf = (cluster: Cluster, reports: Reports | undefined, nowMs: number): Runtime => {
  if (reports === undefined) return NOTHING;
  return {
    node: (name) => {
      if (cluster.state.nodes[name] === undefined) return undefined;
      const seen = reports.nodes.get(name);
      return {
        leaseMs: reports.leaseLeftMs(name, nowMs),
        fenceClosed: seen?.report.fenceClosed === true,
        load: loadOf(seen),
        images: [...(seen?.images ?? [])],
      };
    },
    container: (id) => {
      const allocation = cluster.state.containers[id]?.allocation;
      const observed = observedOn(reports.nodes.get(allocation?.node ?? ""), id);
      if (observed === undefined || observed.epoch !== allocation?.epoch) return undefined;
      return {
        memoryBytes: observed.memoryBytes,
        cpuUsageUsec: observed.cpuUsageUsec,
        state: observed.state,
        blockers: observed.blockers,
        healthOutput: observed.healthOutput,
        restartInMs: reports.restartInMs(id, nowMs),
      };
    },
    migration: (id) => {
      const seen = reports.migrations.get(id);
      const migration = cluster.state.migrations[id];
      const standstill = migration === undefined ? undefined : standstillOf(cluster, reports, migration);
      if (seen === undefined && standstill === undefined) return undefined;
      return {
        ...(seen?.source === undefined ? {} : { source: seen.source }),
        ...(seen?.target === undefined ? {} : { target: seen.target }),
        ...(standstill === undefined ? {} : { standstill }),
      };
    },
  };
};
