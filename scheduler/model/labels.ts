/** Labels of containers and nodes, and what constraints see of a node. Pure. */
import type { Node } from "../../proto/gen/godwit/v1/log.ts";
import type { Constraint, LabelMatch } from "../../proto/gen/godwit/v1/spec.ts";

const LABEL_KEY = /^[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?$/;
export const MAX_LABEL_VALUE = 253;

export const isLabelKey = (text: string): boolean => LABEL_KEY.test(text) && text !== "__proto__";

/** One label as a key of maps and as people read it. */
export const labelText = (key: string, value: string): string => `${key}=${value}`;
export const matchText = ({ key, value }: LabelMatch): string => labelText(key, value);
export const constraintText = ({ key, value, unequal }: Constraint): string =>
  `${key}${unequal ? "!=" : "="}${value}`;

/** As OCI names architectures, of what Node.js calls them. */
const OCI_ARCHITECTURES: Readonly<Record<string, string>> = { x64: "amd64", ia32: "386", ppc64: "ppc64le" };
export const ociArchitecture = (arch: string): string => OCI_ARCHITECTURES[arch] ?? arch;

/** What every node has without being given it; no label can take such a name. */
const BUILTIN: Readonly<Record<string, (name: string, node: Node) => string>> = {
  "node.name": (name) => name,
  arch: (_, { info }) => ociArchitecture(info?.arch ?? ""),
  kernel: (_, { info }) => info?.kernel ?? "",
  cgroup: (_, { info }) => info?.cgroupMode ?? "",
};
export const BUILTIN_ATTRIBUTES: readonly string[] = Object.keys(BUILTIN);

const own = (labels: { readonly [key: string]: string } | undefined, key: string): string | undefined =>
  labels !== undefined && Object.hasOwn(labels, key) ? labels[key] : undefined;

/** A builtin attribute, an operator's label, or one of the host's own configuration, in this order. */
export const attributeOf = (name: string, node: Node, key: string): string | undefined =>
  Object.hasOwn(BUILTIN, key)
    ? BUILTIN[key]?.(name, node)
    : (own(node.labels, key) ?? own(node.info?.labels, key));

/** A node without the label is unequal to every value of it. */
export const satisfies = (name: string, node: Node, { key, value, unequal }: Constraint): boolean => {
  const actual = attributeOf(name, node, key);
  const wanted = key === "arch" ? ociArchitecture(value) : value;
  const equal =
    actual !== undefined &&
    (wanted.endsWith("*") ? actual.startsWith(wanted.slice(0, -1)) : actual === wanted);
  return equal !== unequal;
};
