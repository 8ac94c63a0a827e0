/** In the place of agent/node/host-info.ts. */
import { world } from "../world.ts";
import { Load } from "../../../proto/gen/godwit/v1/agent.ts";

type Real = typeof import("../../../agent/node/host-info.ts");

export const measureLoad: Real["measureLoad"] = (_host, cpuMillisUsed) =>
  Load.fromPartial({ cpuMillisUsed, measuredAtMs: world().nowMs + 1 });
