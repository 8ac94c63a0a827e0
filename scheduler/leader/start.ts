import type { Scheduler, SchedulerOptions } from "../public.ts";

/** Resolves when this scheduler leads and has replayed the log. */
export declare function startScheduler(options: SchedulerOptions): Promise<Scheduler>;
