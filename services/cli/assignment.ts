/** NAME=VALUE arguments, given several times. Pure. */
import { GodwitError } from "../../proto/contract/error.ts";

/** Adds one to those before it; a later one replaces an earlier one of its name. `what` is "variable" or "label". */
export function addAssignment(
  text: string,
  before: { readonly [name: string]: string },
  what: string,
): { [name: string]: string } {
  const at = text.indexOf("=");
  if (at < 1)
    throw new GodwitError("invalid", `the ${what} ${JSON.stringify(text)} is not of the form NAME=VALUE`);
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}
