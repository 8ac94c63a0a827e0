/** A whole cluster on one machine, for tests, the demo and `godwit dev`. */
export { DevCluster } from "./cluster.ts";
export { devDown } from "./down.ts";
export { devUp, type DevUpOptions } from "./up.ts";
