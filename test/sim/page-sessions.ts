/** What follows a post-copy between two hosts: asked for by the target, given by the source's frozen copy, in sessions. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { Machine } from "./machine.ts";
import { sleep } from "./replaced/timers.ts";
import type { Process, World } from "./world.ts";

const TRY_MS = 100;

interface Service {
  readonly owner: Process | undefined;
  readonly isReachable: () => boolean;
  readonly machine: Machine;
  readonly ended: PromiseWithResolvers<void>;
}

export class PageSessions {
  readonly #world: World;
  /** By migration and session. */
  readonly #services = new Map<string, Service>();

  constructor(world: World) {
    this.#world = world;
  }

  /**
   * At the source. Resolves when the target has all.
   * @throws GodwitError `not-found` when the frozen copy is not here any more
   */
  async serve(
    name: string,
    machine: Machine,
    isReachable: () => boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const service: Service = {
      owner: this.#world.current,
      isReachable,
      machine,
      ended: Promise.withResolvers(),
    };
    service.ended.promise.catch(() => undefined);
    this.#services.set(name, service);
    signal.addEventListener("abort", () => {
      if (this.#services.get(name) === service) this.#services.delete(name);
    });
    await service.ended.promise;
  }

  /** At the target: until the source serves this session. */
  async open(name: string, isReachable: () => boolean, idleMs: number, signal: AbortSignal): Promise<void> {
    for (let waitedMs = 0; waitedMs < idleMs; waitedMs += TRY_MS) {
      signal.throwIfAborted();
      const service = this.#services.get(name);
      if (service?.isReachable() === true && isReachable()) return;
      await sleep(TRY_MS, signal);
    }
    throw new GodwitError("unavailable", "the source does not answer");
  }

  /** The next pages have come. */
  take(name: string, containerId: string, life: number, isReachable: () => boolean): void {
    const service = this.#services.get(name);
    if (service === undefined || !service.isReachable() || !isReachable())
      throw new GodwitError("unavailable", "the session broke");
    const copy = service.machine.copies.get(containerId);
    if (copy?.life === life && copy.state === "frozen") return;
    const gone = new GodwitError("not-found", "a page is not in the frozen container any more");
    this.#end(name, service, () => service.ended.reject(gone));
    throw new GodwitError("unavailable", "the source has ended the session");
  }

  /** The target lacks nothing any more. */
  finish(name: string): void {
    const service = this.#services.get(name);
    if (service !== undefined) this.#end(name, service, service.ended.resolve);
  }

  #end(name: string, service: Service, settle: () => void): void {
    this.#services.delete(name);
    this.#world.after(1, service.owner, settle);
  }
}
