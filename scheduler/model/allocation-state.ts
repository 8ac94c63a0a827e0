import { AllocationState } from "../../proto/gen/godwit/v1/log.ts";

/** Nothing of it runs any more, however it came to that. */
export const isOver = (state: AllocationState): boolean =>
  state === AllocationState.EXITED || state === AllocationState.FAILED;
