/** A whole cluster on one machine, for tests, the demo and `godwit dev`. */
export { type CommandResult, DevCluster, type DevNode } from "./cluster.ts";
export { devDown } from "./down.ts";
export { DEFAULT_DATA_DIR, devUp, type DevUpOptions } from "./up.ts";
