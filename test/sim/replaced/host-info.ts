/** In the place of agent/node/host-info.ts. */
import { Load } from "../../../proto/gen/godwit/v1/agent.ts";

export const measureLoad = (cpuMillisUsed: number): Load => Load.fromPartial({ cpuMillisUsed });
