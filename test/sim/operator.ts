/** People at the command line: they ask for something at any moment, and again where they get no answer. */
import { GodwitError } from "../../proto/contract/error.ts";
import { withRequest } from "../../scheduler/leader/request.ts";
import type { Scheduler } from "../../scheduler/mod.ts";
import type { SimCluster } from "./cluster.ts";
import type { Random } from "./random.ts";
import { DRAWS, image, silent, type Call, type Draw, type Promised } from "./requests.ts";
import { MISSED_TOO_MUCH, type SimScheduler } from "./scheduler-process.ts";

/** A lost answer is asked for again, under the same name, so often. */
const REPEATS = 4;
const ANSWER_LOST = 0.15;

/** What people are told when something may not be done, or by a scheduler that was away for longer than the log is kept. */
const isAnswer = (error: unknown): error is GodwitError =>
  error instanceof GodwitError &&
  error.code !== "internal" &&
  (error.code !== "corrupt" || MISSED_TOO_MUCH.test(error.message));

export class Operator {
  readonly cluster: SimCluster;
  readonly random: Random;
  readonly promised: Promised[] = [];
  readonly counts = new Map<string, number>();
  /** By request: what it was answered with. */
  readonly #answers = new Map<string, string>();
  readonly #weights: readonly (readonly [name: string, weight: number, draw: Draw])[];
  readonly #everyMs: number;

  constructor(cluster: SimCluster) {
    this.cluster = cluster;
    this.random = cluster.world.random.fork("operator");
    this.#weights = Object.entries(DRAWS).map(([name, [weight, draw]]) => [
      name,
      name === "run" ? weight : weight * (this.random.chance(0.25) ? 0 : this.random.between(0.2, 2)),
      draw,
    ]);
    this.#everyMs = this.random.pick([200, 600, 2_000]);
  }

  /** Until then something is asked for at every so often. */
  begin(untilMs: number): void {
    const { world } = this.cluster;
    const next = (): void => {
      world.after(this.random.between(0, 2 * this.#everyMs), undefined, () => {
        if (world.nowMs > untilMs) return;
        this.#ask(...this.#draw());
        next();
      });
    };
    next();
    this.#importImage();
  }

  #importImage(): void {
    const { world, referee } = this.cluster;
    if (referee.state.images["redis"] !== undefined) return;
    this.#ask("image", () => silent((scheduler) => scheduler.addImage(image())));
    world.after(1_000, undefined, () => this.#importImage());
  }

  #draw(): [string, Draw] {
    let at = this.random.next() * this.#weights.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [name, weight, draw] of this.#weights) {
      at -= weight;
      if (weight > 0 && at <= 0) return [name, draw];
    }
    return ["nothing", () => undefined];
  }

  /** Of the one that leads, or of any: people do not know. */
  #ask(name: string, draw: Draw): void {
    // Older clients have none.
    const requestId = this.random.chance(0.5) ? this.random.bytes(8).toString("hex") : undefined;
    this.#askOne(name, requestId, (scheduler) => draw(scheduler, this), REPEATS);
  }

  #askOne(
    name: string,
    requestId: string | undefined,
    callOf: (scheduler: Scheduler) => Call | undefined,
    repeats: number,
  ): void {
    const { cluster, random } = this;
    const { world } = cluster;
    const anybody = (): SimScheduler | undefined => random.maybe([...cluster.schedulers.values()]);
    const asked = random.chance(0.9) ? (cluster.leader ?? anybody()) : anybody();
    if (asked === undefined) return;
    world.after(0, asked.process, () => {
      const { running } = asked;
      const call = running === undefined ? undefined : callOf(running);
      if (running === undefined || call === undefined) return;
      void (async () => {
        try {
          const promised = await (requestId === undefined
            ? call(running)
            : withRequest(requestId, () => call(running)));
          world.trace(`operator: ${name} at ${asked.id}: ${promised?.identity ?? "done"}`);
          if (promised !== undefined) this.promised.push(promised);
          this.#count(name);
          if (requestId === undefined) return;
          this.#compare(name, requestId, promised);
          // Its answer was lost on the way to who asked.
          if (repeats > 0 && random.chance(ANSWER_LOST))
            world.after(random.between(1, 3_000), undefined, () =>
              this.#askOne(name, requestId, () => call, 0),
            );
        } catch (error) {
          if (!isAnswer(error)) throw error;
          world.trace(`operator: ${name} at ${asked.id}: ${error.code}: ${error.message}`);
          this.#count(`${name} (${error.code})`);
          if (error.code !== "unavailable" || repeats === 0 || requestId === undefined) return;
          // Whether it was done is not known: the same is asked for again, of whoever leads by then.
          world.after(random.between(100, 3_000), undefined, () =>
            this.#askOne(name, requestId, () => call, repeats - 1),
          );
        }
      })();
    });
  }

  /** One request has one answer, whoever gives it. */
  #compare(name: string, requestId: string, promised: Promised | undefined): void {
    const before = this.#answers.get(requestId);
    if (promised !== undefined) this.#answers.set(requestId, promised.identity);
    if (before !== undefined && before !== promised?.identity)
      this.cluster.world.violated(
        `${name} was answered with ${before}, and when it was asked for again with ${promised?.identity ?? "nothing"}`,
      );
  }

  #count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  /** What was promised and is not so. */
  broken(): string | undefined {
    const missing = this.promised.find(({ identity }) => !this.cluster.referee.isAccepted(identity));
    return missing === undefined
      ? undefined
      : `${missing.what} was answered, and ${missing.identity} is not in the log`;
  }
}
