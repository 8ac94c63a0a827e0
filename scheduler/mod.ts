/** The scheduler's public face; nothing else of this folder is imported from outside. */
export { connectionOptions } from "./log/connection.ts";
export { startScheduler } from "./leader/start.ts";
export type {
  ContainerRuntime,
  DeepReadonlyState,
  DrainOptions,
  DrainProgress,
  MigrationRuntime,
  MoveRequest,
  NodeRuntime,
  Runtime,
  Scheduler,
  SchedulerOptions,
  SchedulerStatus,
} from "./public.ts";
