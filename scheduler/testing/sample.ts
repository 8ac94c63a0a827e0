import { pino, type Logger } from "pino";
import type { Seen, Sight } from "../../proto/contract/report-book.ts";
import { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { ContainerSpec, HealthState, Image, type Resources } from "../../proto/gen/godwit/v1/spec.ts";

export const MIB = 1024 * 1024;

export const silent: Logger = pino({ level: process.env["GODWIT_TEST_LOG"] ?? "silent" });

export const digestOf = (letter: string): string => `sha256:${letter.repeat(64)}`;

export const sampleNode = (name: string, rest: Partial<NodeInfo> = {}): NodeInfo =>
  NodeInfo.fromPartial({
    name,
    cpuMillis: 4_000,
    memoryBytes: 1024 * MIB,
    underlayAddress: `10.1.0.${(name.charCodeAt(name.length - 1) % 200) + 1}`,
    kernel: "6.1.0",
    criuVersion: "4.2",
    ...rest,
  });

export const sampleImage = (name = "redis", letter = "a"): Image =>
  Image.fromPartial({
    name,
    digest: digestOf(letter),
    layers: [{ diffId: digestOf("c"), object: "c", sizeBytes: 10 }],
    sizeBytes: 10,
  });

export const sampleSpec = (name: string, rest: Partial<ContainerSpec> = {}): ContainerSpec =>
  ContainerSpec.fromPartial({ name, image: "redis", ...rest });

export const memoryLimit = (mib: number): { limits: Resources } => ({
  limits: { memoryBytes: mib * MIB, cpuMillis: 0, pids: 0, diskBytes: 0 },
});

/** As an agent without anything of note sees a container. */
export const sampleSight = (
  seen: Pick<Seen, "containerId" | "epoch" | "state"> & Partial<Seen>,
  use: Sight["use"] = () => ({ memoryBytes: 1234, cpuUsageUsec: 0, pids: 0, healthOutput: "" }),
): Sight => ({
  seen: {
    exitCode: 0,
    restarts: 0,
    message: "",
    restartGeneration: 0,
    blockers: [],
    needs: [],
    health: HealthState.UNSPECIFIED,
    restartInMs: 0,
    ...seen,
  },
  restartAtMs: 0,
  use,
});
