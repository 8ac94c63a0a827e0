/** The scheduler's public face; nothing else of this folder is imported from outside. */
export { connectionOptions } from "./log/connection.ts";
export { requestId, withRequest } from "./leader/request.ts";
export { whyItWaits } from "./state/failover.ts";
export { startScheduler } from "./leader/start.ts";
export type {
  ContainerRuntime,
  DeepReadonlyState,
  LogServer,
  MigrationRuntime,
  MovePlan,
  NodeRuntime,
  Scheduler,
  SchedulerOptions,
} from "./public.ts";
export type { ServicePlan } from "./public-services.ts";
export type { DrainProgress } from "./maintenance.ts";
export type { ProjectView } from "./public-placement.ts";
