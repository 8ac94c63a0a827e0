import type { Logger } from "pino";

import type { ProcessMemory } from "../checkpoint/process-memory.ts";
import type { WriteTracking } from "./support.ts";
import { TrackedProcess } from "./tracked-process.ts";
import { Tracer } from "./tracer.ts";

/** Knows of the processes of one container, while it is copied, what they write. */
export class WriteTracker implements Disposable {
  readonly #tracking: WriteTracking;
  readonly #logger: Logger;
  readonly #tracer: Tracer | undefined;
  readonly #processes = new Map<number, TrackedProcess>();

  constructor(tracking: WriteTracking, logger: Logger) {
    this.#tracking = tracking;
    this.#logger = logger;
    this.#tracer = tracking.kind === "write-protect" ? new Tracer() : undefined;
  }

  /** From now on if not already. */
  async track(memory: ProcessMemory): Promise<TrackedProcess> {
    const known = this.find(memory);
    if (known !== undefined) return known;
    this.#processes.get(memory.pid)?.[Symbol.dispose]();
    const process = await TrackedProcess.begin(memory, this.#tracking.kind, this.#tracer, (reason) =>
      this.#logger.warn(
        { pid: memory.pid, reason },
        "a process's writes cannot be tracked: it is compared instead",
      ),
    );
    this.#processes.set(memory.pid, process);
    return process;
  }

  /** Undefined for a process that is not tracked, for example because it began just now. */
  find(memory: ProcessMemory): TrackedProcess | undefined {
    const process = this.#processes.get(memory.pid);
    return process?.startTicks === memory.startTicks ? process : undefined;
  }

  [Symbol.dispose](): void {
    for (const process of this.#processes.values()) process[Symbol.dispose]();
    this.#processes.clear();
    this.#tracer?.[Symbol.dispose]();
  }
}
