import { constraintText, ociArchitecture, satisfies } from "../../model/labels.ts";
import type { Filter } from "./filter.ts";

/** `--constraint k=v` and `k!=v`, over labels and attributes of nodes. */
export const CONSTRAINTS: Filter = {
  kind: "constraint",
  concerns: ({ constraints }) => constraints.length > 0,
  blocks: ({ constraints }, { name, node }) => {
    for (const constraint of constraints) if (!satisfies(name, node, constraint)) return true;
    return false;
  },
  obstacles: ({ constraints }, { name, node }) =>
    constraints
      .filter((constraint) => !satisfies(name, node, constraint))
      .map((constraint) => {
        const text = constraintText(constraint);
        return {
          code: "refused",
          message: `node ${name} does not satisfy the constraint ${text}`,
          one: `does not satisfy ${text}`,
          many: `do not satisfy ${text}`,
        };
      }),
};

/** The image is made for other machines. */
export const ARCHITECTURE: Filter = {
  kind: "architecture",
  concerns: ({ arch }) => arch !== "",
  blocks: ({ arch }, { node }) => node.info !== undefined && misfits(arch, node.info.arch),
  obstacles: ({ arch }, { name, node }) =>
    node.info === undefined || !misfits(arch, node.info.arch)
      ? []
      : [
          {
            code: "refused",
            message: `node ${name} is ${ociArchitecture(node.info.arch)}, and the image is made for ${arch}`,
            one: `is not ${arch}, which the image is made for`,
            many: `are not ${arch}, which the image is made for`,
          },
        ],
};

/** A node that does not say what it is may be anything. */
const misfits = (arch: string, node: string): boolean => node !== "" && ociArchitecture(node) !== arch;
