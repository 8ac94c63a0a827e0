import type { Container } from "../../../proto/gen/godwit/v1/log.ts";
import { portText } from "../../model/placement-check.ts";
import { portKey } from "../placement-index.ts";
import { hasLabel, repels, type Demand, type LabelRule, type Spot } from "./demand.ts";
import type { Filter, Obstacle } from "./filter.ts";

const publishes = ({ planned }: Spot, key: number): boolean =>
  planned.some(({ spec }) => spec?.ports.some((port) => portKey(port) === key));

/** A port of a host leads to one container. */
export const PORTS: Filter = {
  kind: "port",
  concerns: ({ ports }) => ports.length > 0,
  blocks: ({ ports, portsOf }, spot) => {
    const taken = portsOf(spot.name);
    for (const port of ports)
      if (taken?.has(portKey(port)) === true || publishes(spot, portKey(port))) return true;
    return false;
  },
  obstacles: ({ ports, portsOf }, spot) => {
    const taken = portsOf(spot.name);
    return ports
      .filter((port) => taken?.has(portKey(port)) === true || publishes(spot, portKey(port)))
      .map((port) => ({
        code: "refused",
        message: `port ${portText(port)} of node ${spot.name} is published for another container already`,
        one: `has its port ${portText(port)} taken`,
        many: `have their port ${portText(port)} taken`,
      }));
  },
};

const isApart = ({ apart, shunned }: Demand, { name, planned }: Spot): boolean => {
  for (const { label, nodes } of apart)
    if (nodes?.has(name) === true || planned.some((other) => hasLabel(other, label))) return false;
  for (const { nodes } of shunned) if (nodes?.has(name) === true) return false;
  return true;
};

/** A planned container that wants nothing to do with this one; no index has made a rule of it yet. */
const isShunnedByPlanned = ({ container }: Demand, { planned }: Spot): boolean =>
  planned.some((other) =>
    Object.entries(container.spec?.labels ?? {}).some(([key, value]) => repels(other, `${key}=${value}`)),
  );

/** `--anti-affinity`, its own and that of the containers that are there. */
export const ANTI_AFFINITY: Filter = {
  kind: "anti-affinity",
  concerns: () => true,
  blocks: (demand, spot) =>
    !isApart(demand, spot) || (spot.planned.length > 0 && isShunnedByPlanned(demand, spot)),
  obstacles: (demand, spot) => {
    const { name, planned } = spot;
    const found: Obstacle[] = [];
    for (const { label, nodes } of demand.apart)
      if (nodes?.has(name) === true || planned.some((other) => hasLabel(other, label)))
        found.push({
          code: "refused",
          message: `node ${name} has a container with ${label}, which it must not be beside (anti-affinity)`,
          one: `has a container with ${label} (anti-affinity)`,
          many: `have a container with ${label} (anti-affinity)`,
        });
    for (const { label, nodes } of demand.shunned)
      if (nodes?.has(name) === true)
        found.push({
          code: "refused",
          message: `node ${name} has a container that must not be beside ${label} (anti-affinity)`,
          one: `has a container that must not be beside ${label}`,
          many: `have a container that must not be beside ${label}`,
        });
    if (found.length === 0 && isShunnedByPlanned(demand, spot))
      found.push({
        code: "refused",
        message: `node ${name} is about to get a container that must not be beside this one (anti-affinity)`,
        one: "is about to get a container that must not be beside this one",
        many: "are about to get a container that must not be beside this one",
      });
    return found;
  },
};

/** Room is being made for it, which may take its time, or come to nothing: nobody is beside it yet. */
const isAwaited = ({ allocation, nominatedNode }: Container): boolean =>
  allocation === undefined && nominatedNode !== "";

const isBeside = ({ label, nodes }: LabelRule, { name, planned }: Spot): boolean =>
  nodes?.has(name) === true || planned.some((other) => hasLabel(other, label) && !isAwaited(other));

/** `--affinity`. */
export const AFFINITY: Filter = {
  kind: "affinity",
  concerns: ({ beside }) => beside.length > 0,
  blocks: ({ beside }, spot) => {
    for (const rule of beside) if (!isBeside(rule, spot)) return true;
    return false;
  },
  obstacles: ({ beside }, spot) =>
    beside
      .filter((rule) => !isBeside(rule, spot))
      .map(({ label }) => ({
        code: "refused",
        message: `node ${spot.name} has no container with ${label}, which it must be beside (affinity)`,
        one: `has no container with ${label} (affinity)`,
        many: `have no container with ${label} (affinity)`,
      })),
};
