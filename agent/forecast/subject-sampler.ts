import { setTimeout as delay } from "node:timers/promises";

import type { ContainerRuntime } from "../container/runtime.ts";
import { walkLayer } from "../layer/scan.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import type { MoveSubject } from "../model/forecast.ts";
import { MemorySample } from "./memory-sample.ts";

/** After the sample was taken. */
const LOOKS_MS = [100, 300, 900];

/** Measures a running container, in the background, for a forecast of its move. */
export class SubjectSampler implements Disposable {
  readonly #abort = new AbortController();
  #sample: MemorySample | undefined;
  #filesystemBytes = 0;
  /** The first look is over: there is something to go by. */
  readonly first: Promise<void>;
  /** All looks are over. Rejects with why the container cannot be measured, `cancelled` when disposed. */
  readonly done: Promise<void>;

  constructor(runtime: ContainerRuntime, signal?: AbortSignal) {
    const first = Promise.withResolvers<void>();
    this.first = first.promise;
    this.done = this.#run(
      runtime,
      AbortSignal.any([...(signal === undefined ? [] : [signal]), this.#abort.signal]),
      first.resolve,
    );
    this.done.catch(() => undefined); // whoever wants it awaits it
    void this.done.then(first.resolve, first.reject);
    this.first.catch(() => undefined);
  }

  async #run(runtime: ContainerRuntime, signal: AbortSignal, looked: () => void): Promise<void> {
    const sample = await MemorySample.take(runtime.cgroup.processes(), signal);
    this.#sample = sample;
    const takenAtMs = performance.now();
    for await (const { stamp } of walkLayer(Buffer.from(runtime.paths.upper), signal))
      if (stamp.kind === "file") this.#filesystemBytes += stamp.sizeBytes;
    for (const lookMs of LOOKS_MS) {
      await delay(Math.max(0, takenAtMs + lookMs - performance.now()), undefined, { signal });
      await sample.look(signal);
      looked();
    }
  }

  /** As far as it is known now; undefined before the first sample. */
  subject(): MoveSubject | undefined {
    if (this.#sample === undefined) return undefined;
    const { memoryPages, processes, dirty, compressedShare } = this.#sample;
    return { memoryPages, processes, dirty, compressedShare, filesystemBytes: this.#filesystemBytes };
  }

  [Symbol.dispose](): void {
    this.#abort.abort(new GodwitError("cancelled", "the container is not measured any more"));
  }
}
