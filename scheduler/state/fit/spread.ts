import type { Spot } from "./demand.ts";
import type { Filter } from "./filter.ts";
import { placeOf, type SpreadDemand } from "./spread-demand.ts";

/** How many more than the least the place would have; undefined: the node is in no place. */
const skewOf = ({ counts, label, least }: SpreadDemand, { name, node }: Spot): number | undefined => {
  const place = placeOf(name, node, label);
  return place === undefined ? undefined : (counts.get(place) ?? 0) + 1 - least;
};

const breaks = (rule: SpreadDemand, spot: Spot): boolean => {
  const skew = skewOf(rule, spot);
  return skew === undefined || skew > rule.maxSkew;
};

/** `spread` with `maxSkew`, of a service. */
export const SPREAD: Filter = {
  kind: "spread",
  concerns: ({ spread }) => spread.length > 0,
  blocks: ({ spread }, spot) => spread.some((rule) => breaks(rule, spot)),
  obstacles: ({ spread }, spot) =>
    spread
      .filter((rule) => breaks(rule, spot))
      .map((rule) => {
        const { label, maxSkew } = rule;
        if (skewOf(rule, spot) === undefined)
          return {
            code: "refused",
            message: `node ${spot.name} has no label ${label}, over which the service is spread`,
            one: `has no label ${label}, over which the service is spread`,
            many: `have no label ${label}, over which the service is spread`,
          };
        const over = label === "" ? "nodes" : label;
        return {
          code: "refused",
          message: `node ${spot.name} would have more of the service than it may (spread over ${over}, maxSkew ${maxSkew})`,
          one: `would have too many of the service (spread over ${over}, maxSkew ${maxSkew})`,
          many: `would have too many of the service (spread over ${over}, maxSkew ${maxSkew})`,
        };
      }),
};
