import { hostDifferences, isAlike, missingFeatures, otherArchitecture } from "../host-match.ts";
import type { Demand, Spot } from "./demand.ts";
import type { Filter, Obstacle } from "./filter.ts";

const differences = ({ isCold, needs, source }: Demand, { node: { info } }: Spot): string[] => {
  if (info === undefined) return [];
  const missing = missingFeatures(needs, info);
  if (source === undefined) return missing;
  if (!isCold) return [...hostDifferences(source, info), ...missing];
  const foreign = otherArchitecture(source, info);
  return foreign === undefined ? missing : [foreign, ...missing];
};

/** What runs can go on there in the middle of its work: CPU, kernel and CRIU. */
export const HOST: Filter = {
  kind: "host",
  concerns: ({ needs, source }) => source !== undefined || needs.length > 0,
  blocks: (demand, spot) => {
    const { info } = spot.node;
    if (info === undefined) return false;
    if (demand.needs.length === 0 && (demand.source === undefined || isAlike(demand.source, info)))
      return false;
    return differences(demand, spot).length > 0;
  },
  obstacles: (demand, spot) =>
    differences(demand, spot).map((message): Obstacle => ({
      code: "refused",
      message,
      one: "cannot go on with what runs elsewhere",
      many: "cannot go on with what runs elsewhere",
      particular: true,
    })),
};
