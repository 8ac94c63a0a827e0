/**
 * When a scheduler tries to lead. A leader has a lease: as long as its beats are heard, or its entries are seen in the
 * log, nobody else tries. Trying is safe at any moment, whatever clocks and messages do, because only one election fits
 * the end of the log; the lease is there so that it is not tried without need.
 */
import type { Logger } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import type { SchedulerBeat } from "../../proto/gen/godwit/v1/scheduler.ts";
import type { Committer } from "../log/committer.ts";
import { pauseOn, type Machine } from "../log/machine.ts";
import type { Beats } from "./beats.ts";

export interface CandidacyOptions {
  readonly id: string;
  /** Of a leader. */
  readonly leaseMs: number;
  readonly beatMs: number;
  readonly committer: Committer;
  readonly askLeader: Beats["askLeader"];
  readonly machine: Machine;
  readonly logger: Logger;
  /** It leads: told again and again for as long as it does. */
  readonly onElected: () => void;
}

/** So often in a row nobody must have answered for leading: a leader that reconnects is gone for a moment too. */
const NOBODY_TIMES = 3;
const LOOK_MS = 300;

export class Candidacy implements AsyncDisposable {
  readonly #options: CandidacyOptions;
  readonly #stop = new AbortController();
  /** Ends the present pause. */
  #hurry = new AbortController();
  #signOfLifeMs: number;
  /** On top of the lease, so that two do not always try at the same moment. */
  #delayMs = 0;
  #nobody = 0;
  /** A leader has been heard of since this process was started. */
  #isHeard = false;
  #loop: Promise<void> = Promise.resolve();

  constructor(options: CandidacyOptions) {
    this.#options = options;
    this.#signOfLifeMs = options.machine.monotonicMs();
    this.#drawDelay();
  }

  /** Resolves once this scheduler leads or has heard of one that does; from then on it watches. */
  async begin(): Promise<void> {
    const { committer, id } = this.#options;
    const { leaderId } = committer.replica.cluster.state;
    // Nobody has led yet, or it was us, before this process was started: nobody has to be waited for.
    if (leaderId === "" || leaderId === id) await this.#stand();
    while (!this.#stop.signal.aborted && !committer.leading && !this.#isHeard) {
      await this.#look();
      if (!this.#isHeard) await this.#pause();
    }
    this.#loop = this.#run();
  }

  /** Somebody leads: he was heard of, or an entry of his is in the log. */
  signOfLife(): void {
    this.#signOfLifeMs = this.#options.machine.monotonicMs();
    this.#nobody = 0;
    this.#isHeard = true;
  }

  heard({ epoch, leading, leaving, schedulerId }: SchedulerBeat): void {
    const { epoch: known, leaderId } = this.#options.committer.replica.cluster.state;
    if (leading && epoch >= known) this.signOfLife();
    if (leaving && epoch >= known && schedulerId === leaderId) {
      this.#nobody = NOBODY_TIMES;
      this.#hurry.abort();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { committer, logger, onElected } = this.#options;
    while (!this.#stop.signal.aborted) {
      await this.#pause();
      if (this.#stop.signal.aborted || committer.failure !== undefined) return;
      if (committer.leading) {
        this.signOfLife();
        // Also one whose election was found in the log when nobody waited for it any more.
        onElected();
        continue;
      }
      try {
        await this.#look();
      } catch (error) {
        const failure = GodwitError.from(error);
        if (failure.code !== "unavailable") logger.error({ err: failure }, "an election failed");
      }
    }
  }

  async #pause(): Promise<void> {
    const { beatMs, machine } = this.#options;
    await pauseOn(
      machine,
      Math.min(beatMs, LOOK_MS),
      AbortSignal.any([this.#stop.signal, this.#hurry.signal]),
    );
    if (this.#hurry.signal.aborted) this.#hurry = new AbortController();
  }

  #drawDelay(): void {
    const { leaseMs, machine } = this.#options;
    this.#delayMs = (machine.randomFraction() * leaseMs) / 4;
  }

  async #look(): Promise<void> {
    const { askLeader, beatMs, leaseMs, machine } = this.#options;
    const silentMs = (): number => machine.monotonicMs() - this.#signOfLifeMs;
    if (this.#nobody < NOBODY_TIMES) {
      if (this.#isHeard && silentMs() < 1.5 * beatMs) return;
      const answer = await askLeader(Math.min(beatMs, LOOK_MS));
      if (answer === "nobody") this.#nobody += 1;
      else if (answer === "silence") this.#nobody = 0;
      else return; // it was heard like any other beat
    }
    if (this.#nobody >= NOBODY_TIMES || silentMs() > leaseMs + this.#delayMs) await this.#stand();
  }

  async #stand(): Promise<void> {
    const { committer, id, leaseMs, logger, machine, onElected } = this.#options;
    const { replica } = committer;
    const [sequence, beganMs] = [replica.sequence, machine.monotonicMs()];
    this.#drawDelay();
    await committer.synchronize();
    // Entries of a living leader, or a log that could not be read: he could not write either, and has his lease anew.
    if (replica.sequence !== sequence || machine.monotonicMs() - beganMs > leaseMs) {
      this.signOfLife();
      return;
    }
    logger.info({ epoch: replica.cluster.state.epoch, sequence }, `${id} stands for election`);
    const elected = await committer.stand();
    this.signOfLife();
    if (elected) onElected();
  }
}
