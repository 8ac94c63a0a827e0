import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";

/** What the C library says of the call that was just made and has failed. */
export function failed(call: string): GodwitError {
  return new GodwitError("internal", `${call} failed: errno ${koffi.errno()}`);
}
