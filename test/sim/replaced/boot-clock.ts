/** In the place of agent/native/boot-clock.ts. */
import { world } from "../world.ts";

export const bootTimeNs = (): bigint => BigInt(Math.round(world().nowMs * 1_000_000));
