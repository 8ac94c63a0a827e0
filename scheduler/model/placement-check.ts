/** What is wrong with the rules by which a container wants to be placed; part of spec-check.ts. */
import { GodwitError } from "../../proto/contract/error.ts";
import { isName } from "../../proto/contract/ids.ts";
import type { Constraint, ContainerSpec, LabelMatch, PublishedPort } from "../../proto/gen/godwit/v1/spec.ts";
import { isLabelKey, matchText, MAX_LABEL_VALUE } from "./labels.ts";

const MAX_RULES = 32;
const MAX_PORTS = 64;
const MAX_PORT = 65_535;
const MAX_PRIORITY = 1_000_000;
/** The hosts' own tunnels end there. */
const VXLAN_PORT = 4789;

const invalid = (message: string): GodwitError => new GodwitError("invalid", message);
const quoted = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);

const checkLabel = (what: string, { key, value }: Constraint | LabelMatch): void => {
  if (!isLabelKey(key))
    throw invalid(`${quoted(key)} is no label name for ${what}: letters, digits, ".", "_", "/" and "-"`);
  if (value.length > MAX_LABEL_VALUE || value.includes("\0"))
    throw invalid(
      `the value of ${key} in ${what} is longer than ${MAX_LABEL_VALUE} characters or holds a NUL`,
    );
};

const checkCount = (what: string, count: number, most: number): void => {
  if (count > most) throw invalid(`${count} of ${what} are more than ${most}`);
};

export const portText = ({ hostPort, protocol }: PublishedPort): string =>
  `${hostPort}/${protocol === "udp" ? "udp" : "tcp"}`;

const checkPorts = (ports: readonly PublishedPort[]): void => {
  checkCount("published ports", ports.length, MAX_PORTS);
  const seen = new Set<string>();
  for (const port of ports) {
    for (const number of [port.hostPort, port.containerPort])
      if (!Number.isInteger(number) || number < 1 || number > MAX_PORT)
        throw invalid(`${number} is no port: use 1 to ${MAX_PORT}`);
    if (port.protocol !== "" && port.protocol !== "tcp" && port.protocol !== "udp")
      throw invalid(`${quoted(port.protocol)} is no protocol of a published port: use tcp or udp`);
    const text = portText(port);
    if (text === `${VXLAN_PORT}/udp`)
      throw invalid(`the hosts' port ${text} belongs to the containers' network`);
    if (seen.has(text)) throw invalid(`the host port ${text} is published twice`);
    seen.add(text);
  }
};

export const checkPlacementRules = (spec: ContainerSpec): void => {
  checkCount("the constraints", spec.constraints.length, MAX_RULES);
  for (const constraint of spec.constraints) checkLabel("a constraint", constraint);
  const sides = [
    ["affinity", spec.affinity],
    ["anti-affinity", spec.antiAffinity],
  ] as const;
  for (const [what, matches] of sides) {
    checkCount(`the labels of ${what}`, matches.length, MAX_RULES);
    for (const match of matches) checkLabel(what, match);
  }
  const apart = new Set(spec.antiAffinity.map(matchText));
  for (const match of spec.affinity)
    if (apart.has(matchText(match)))
      throw invalid(`it cannot be both beside and apart from containers with ${matchText(match)}`);
  checkPorts(spec.ports);
  if (spec.project !== "" && !isName(spec.project))
    throw invalid(
      `${quoted(spec.project)} is no project name: use 1 to 63 lower-case letters, digits and dashes`,
    );
  if (!Number.isInteger(spec.priority) || Math.abs(spec.priority) > MAX_PRIORITY)
    throw invalid(`the priority ${spec.priority} is not between -${MAX_PRIORITY} and ${MAX_PRIORITY}`);
};
