/** What differs between two services, field by field, in the words of a file. Pure. */
import type { ServiceChange } from "../../../proto/gen/godwit/v1/api.ts";
import { serviceFields, type Plain } from "./document.ts";

export interface FieldChange {
  readonly sign: "+" | "-" | "~";
  /** "container.env.MODE" */
  readonly field: string;
  readonly before: Plain | null;
  readonly after: Plain | null;
}

/** Single values and lists, by their path. */
function* leaves(value: Plain | undefined, path: string): Generator<[string, Plain]> {
  if (value === undefined) return;
  if (typeof value !== "object" || Array.isArray(value)) {
    yield [path, value];
    return;
  }
  for (const [key, inner] of Object.entries(value))
    yield* leaves(inner, path === "" ? key : `${path}.${key}`);
}

export const fieldChanges = ({ after, before }: ServiceChange): FieldChange[] => {
  const old = new Map(before === undefined ? [] : leaves(serviceFields(before), ""));
  const now = new Map(after === undefined ? [] : leaves(serviceFields(after), ""));
  const changes: FieldChange[] = [];
  for (const [field, value] of now) {
    const was = old.get(field);
    if (was === undefined) changes.push({ sign: "+", field, before: null, after: value });
    else if (JSON.stringify(was) !== JSON.stringify(value))
      changes.push({ sign: "~", field, before: was, after: value });
  }
  for (const [field, was] of old)
    if (!now.has(field)) changes.push({ sign: "-", field, before: was, after: null });
  const content = contentChange(before?.template?.imageDigest, after?.template?.imageDigest);
  const isNamed = changes.some(({ field }) => field === "container.image");
  if (content !== undefined && !isNamed) changes.push(content);
  return changes.toSorted((a, b) => (a.field < b.field ? -1 : a.field > b.field ? 1 : 0));
};

/** The name of an image stands for another one by now. */
const contentChange = (before: string | undefined, after: string | undefined): FieldChange | undefined =>
  before === undefined || after === undefined || before === after
    ? undefined
    : { sign: "~", field: "container.image.digest", before, after };

const shown = (value: Plain | null): string =>
  typeof value === "string" && !/[\s"']|^$/.test(value) ? value : JSON.stringify(value);

const changeText = ({ after, before, field, sign }: FieldChange): string => {
  switch (sign) {
    case "+":
      return `+ ${field}: ${shown(after)}`;
    case "-":
      return `- ${field}: ${shown(before)}`;
    case "~":
      return `~ ${field}: ${shown(before)} → ${shown(after)}`;
  }
};

const HOW: Readonly<Record<string, string>> = {
  scale: "scaled",
  "in-place": "changed in place",
  rolling: "containers replaced",
  resume: "roll-out begun again",
};

/** "~ web: containers replaced", and a line for each field. */
export const changeLines = (change: ServiceChange): string[] => {
  const fields = change.action === "none" ? [] : fieldChanges(change);
  const lines = fields.map((one) => `    ${changeText(one)}`);
  switch (change.action) {
    case "create":
      return [`+ ${change.name}: new`, ...lines];
    case "update":
      return [`~ ${change.name}: ${change.how.map((word) => HOW[word] ?? word).join(", ")}`, ...lines];
    default:
      return [`= ${change.name}: no change`];
  }
};

export const changeDocument = (change: ServiceChange): Record<string, unknown> => ({
  name: change.name,
  action: change.action,
  how: change.how,
  version: change.version,
  fields: change.action === "none" ? [] : fieldChanges(change),
});
