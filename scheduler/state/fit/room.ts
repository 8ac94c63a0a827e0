import { freeText, hasRoom, shortagesOf, wantedText } from "../capacity.ts";
import type { Filter } from "./filter.ts";

/** Memory, cpus, processes and disk, as they are promised. */
export const ROOM: Filter = {
  kind: "room",
  concerns: ({ limits }) =>
    limits.memoryBytes > 0 || limits.cpuMillis > 0 || limits.pids > 0 || limits.diskBytes > 0,
  blocks: ({ limits }, { node, use }) => !hasRoom(node, use, limits),
  obstacles: ({ limits }, { name, node, use }) =>
    shortagesOf(node, use, limits).map((shortage) => {
      const wanted = wantedText(shortage);
      return {
        code: "exhausted",
        message: `node ${name} lacks ${wanted} (has ${freeText(shortage)} free)`,
        one: `lacks ${wanted}`,
        many: `lack ${wanted}`,
        free: { amount: shortage.free, text: freeText(shortage) },
      };
    }),
};
