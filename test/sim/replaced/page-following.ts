/** In the place of agent/migrate/page-following.ts: the same sessions, in which pieces of memory are only counted. */
import type { PageFollowingTerms } from "../../../agent/migrate/page-following.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import { context, isReachable, machineOf } from "../context.ts";
import { sessionName } from "./page-service.ts";
import { within } from "./target.ts";
import { sleep } from "./timers.ts";

const PAUSE_MS = 500;
/** As the agents' (agent/migrate/stream-ends.ts). */
const SESSION_IDLE_MS = 10_000;

export class PageFollowing implements AsyncDisposable {
  readonly migrationId: string;
  readonly #terms: PageFollowingTerms;
  readonly #over = new AbortController();
  readonly #runs = Promise.withResolvers<void>();
  #session: number;
  #ended: Promise<void> | undefined;

  constructor(terms: PageFollowingTerms, session: number) {
    this.#terms = terms;
    this.#session = session;
    this.migrationId = terms.order.id;
  }
  get session(): number {
    return this.#session;
  }
  begin(): void {
    this.#ended ??= this.#follow(this.#over.signal);
  }
  containerRuns(): void {
    this.#runs.resolve();
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const { changed, host } = this.#terms;
    while (!signal.aborted) {
      try {
        await this.#fetch(signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        host.logger.warn({ err: error, session: this.#session }, "pages that follow have stopped coming");
      }
      await sleep(PAUSE_MS, signal).catch(() => undefined);
      this.#session = Date.now();
      changed();
    }
  }

  async #fetch(signal: AbortSignal): Promise<void> {
    const { host, order, runtime } = this.#terms;
    const { conditions, kernel, random, sessions } = context();
    const machine = machineOf(host);
    const reachable = (): boolean => isReachable(machine);
    const name = sessionName(order.id, this.#session);
    const lacking = (): number =>
      machine.copies.get(runtime.id)?.lacking ?? machine.images.get(runtime.id)?.lacking ?? 0;
    if (lacking() === 0) return;
    await sessions.open(name, reachable, SESSION_IDLE_MS, signal);
    await within(this.#runs.promise, signal);
    for (let left = lacking(); left > 0; left = lacking()) {
      await sleep(random.between(5, 600), signal);
      const copy = machine.copies.get(runtime.id);
      if (copy === undefined) throw new GodwitError("unavailable", "the container has ended");
      if (random.chance(conditions.troubles.streamFailure))
        throw new GodwitError("unavailable", "the session broke");
      sessions.take(name, runtime.id, copy.life, reachable);
      kernel.pagesArrived(machine, runtime.id);
    }
    sessions.finish(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort(new GodwitError("cancelled", "no more pages are wanted"));
    await this.#ended;
  }
}
