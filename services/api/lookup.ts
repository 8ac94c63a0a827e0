/** Names given by a person: an exact name or id, or a prefix that only one thing starts with. */
import { GodwitError } from "../../proto/contract/error.ts";

/** How many candidates an error lists before it only counts the rest. */
const LISTED = 8;

export interface Named {
  readonly id: string;
  readonly name: string;
}

/**
 * The one item that `wanted` stands for. An exact name wins over an exact id, and both over prefixes.
 * Throws `invalid` for an empty or ambiguous name and `not-found` when nothing fits. `kind` and `hint`
 * ("see godwit ps") go into the message.
 */
export function lookUp<T extends Named>(items: Iterable<T>, wanted: string, kind: string, hint: string): T {
  if (wanted === "") throw new GodwitError("invalid", `the ${kind}'s name is empty; name one, ${hint}`);
  const found: T[] = [];
  let byId: T | undefined;
  for (const item of items) {
    if (item.name === wanted) return item;
    if (item.id === wanted) byId = item;
    if (item.name.startsWith(wanted) || item.id.startsWith(wanted)) found.push(item);
  }
  if (byId !== undefined) return byId;
  const [only] = found;
  if (only === undefined) {
    throw new GodwitError(
      "not-found",
      `there is no ${kind} whose name or id begins with '${wanted}'; ${hint}`,
    );
  }
  if (found.length > 1) {
    const candidates = found
      .map((item) => (item.name === item.id ? item.name : `${item.name} (${item.id})`))
      .sort();
    const more = candidates.length > LISTED ? ` and ${candidates.length - LISTED} more` : "";
    throw new GodwitError(
      "invalid",
      `'${wanted}' stands for more than one ${kind}: ${candidates.slice(0, LISTED).join(", ")}${more}; give more of the name`,
    );
  }
  return only;
}
