/** Rules of placing as people write them. Pure. */
import type { Constraint, LabelMatch, PublishedPort } from "../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../proto/contract/error.ts";

/** "zone=a" and "zone!=a"; each one more. */
export function addConstraint(text: string, before: readonly Constraint[]): Constraint[] {
  const [, key, sign, value] = /^([^=!]+)(!?=)(.*)$/s.exec(text) ?? [];
  if (key === undefined || value === undefined)
    throw new GodwitError(
      "invalid",
      `the constraint ${JSON.stringify(text)} is not of the form NAME=VALUE or NAME!=VALUE`,
    );
  return [...before, { key, value, unequal: sign === "!=" }];
}

/** "app=web"; each one more. */
export function addMatch(text: string, before: readonly LabelMatch[]): LabelMatch[] {
  const at = text.indexOf("=");
  if (at < 1)
    throw new GodwitError("invalid", `the label ${JSON.stringify(text)} is not of the form NAME=VALUE`);
  return [...before, { key: text.slice(0, at), value: text.slice(at + 1) }];
}

/** "8080:80", "5353:53/udp"; each one more. */
export function addPort(text: string, before: readonly PublishedPort[]): PublishedPort[] {
  const [, host, container, protocol = "tcp"] = /^(\d{1,5}):(\d{1,5})(?:\/(tcp|udp))?$/.exec(text) ?? [];
  if (host === undefined || container === undefined)
    throw new GodwitError(
      "invalid",
      `the port ${JSON.stringify(text)} is not of the form HOST:CONTAINER or HOST:CONTAINER/udp, such as 8080:80`,
    );
  return [...before, { hostPort: Number(host), containerPort: Number(container), protocol }];
}

/** "zone=a" sets, "zone-" takes away. */
export function parseLabelChanges(words: readonly string[]): {
  set: { [key: string]: string };
  remove: string[];
} {
  const set: { [key: string]: string } = {};
  const remove: string[] = [];
  for (const word of words) {
    const at = word.indexOf("=");
    if (at > 0) set[word.slice(0, at)] = word.slice(at + 1);
    else if (at < 0 && word.length > 1 && word.endsWith("-")) remove.push(word.slice(0, -1));
    else
      throw new GodwitError(
        "invalid",
        `${JSON.stringify(word)} is neither NAME=VALUE, which sets a label, nor NAME-, which takes it away`,
      );
  }
  return { set, remove };
}

/** A whole number, also below 0. */
export function parsePriority(text: string): number {
  const priority = Number(text);
  if (!/^-?[0-9]+$/.test(text.trim()) || !Number.isSafeInteger(priority))
    throw new GodwitError("invalid", `${JSON.stringify(text)} is no priority; write a whole number`);
  return priority;
}
