/** One scheduler among several: tells the others that it lives, knows who they are, and leads when its turn comes. */
import type { Logger } from "pino";
import type { SchedulerBeat } from "../../proto/gen/godwit/v1/scheduler.ts";
import type { Committer } from "../log/committer.ts";
import type { Link } from "../log/link.ts";
import type { Machine } from "../log/machine.ts";
import type { SchedulerMember } from "../public.ts";
import { answerForLeading, Beats } from "./beats.ts";
import { Candidacy } from "./candidacy.ts";

/** Beats in a leader's lease. */
const BEATS = 6;
/** One that was not heard for so many beats is called silent. */
const SILENT_BEATS = 5;

export interface MembershipOptions {
  readonly id: string;
  readonly addresses: readonly string[];
  readonly leaderLeaseMs: number;
  readonly committer: Committer;
  readonly link: Link;
  readonly machine: Machine;
  readonly logger: Logger;
  readonly onElected: () => void;
}

export class Membership implements AsyncDisposable {
  readonly #options: MembershipOptions;
  readonly #instance: string;
  readonly #beatMs: number;
  readonly #beats: Beats;
  readonly #candidacy: Candidacy;
  /** Only while it leads: that nobody answers for leading tells the others more than silence does. */
  #answering: Disposable | undefined;
  #leaving = false;

  constructor(options: MembershipOptions) {
    const { committer, id, leaderLeaseMs, link, logger, machine, onElected } = options;
    this.#options = options;
    this.#instance = machine.randomHex(8);
    this.#beatMs = Math.max(10, Math.floor(leaderLeaseMs / BEATS));
    this.#candidacy = new Candidacy({
      id,
      leaseMs: leaderLeaseMs,
      beatMs: this.#beatMs,
      committer,
      askLeader: (withinMs) => this.#beats.askLeader(withinMs),
      machine,
      logger,
      onElected,
    });
    this.#beats = new Beats({
      link,
      machine,
      everyMs: this.#beatMs,
      own: () => this.#own(),
      onHeard: (beat) => this.#candidacy.heard(beat),
    });
  }

  /** This scheduler has begun to lead, or does not any more. */
  setLeading(leading: boolean): void {
    this.#answering?.[Symbol.dispose]();
    this.#answering = leading
      ? answerForLeading(this.#options.link, () => {
          const beat = this.#own();
          return beat.leading ? beat : undefined;
        })
      : undefined;
    this.#beats.publish();
  }

  begin(): Promise<void> {
    return this.#candidacy.begin();
  }
  /** To be called for each entry of somebody else. */
  signOfLife(): void {
    this.#candidacy.signOfLife();
  }

  /** By id. */
  schedulers(): SchedulerMember[] {
    const { id, machine } = this.#options;
    const nowMs = machine.nowMs();
    const others = [...this.#beats.peers].filter(([peer]) => peer !== id);
    const all = [
      this.#member(this.#own(), 0),
      ...others.map(([, { beat, heardAtMs }]) => this.#member(beat, Math.max(0, nowMs - heardAtMs))),
    ];
    return all.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }

  /** Where calls go that only the leader can answer. Undefined: it is not known. */
  leader(): SchedulerMember | undefined {
    return this.schedulers().find(({ role }) => role === "leader");
  }

  /** Says goodbye: somebody else may lead at once. To be called when nothing is written any more. */
  async leave(): Promise<void> {
    const { link } = this.#options;
    this.#leaving = true;
    this.setLeading(false);
    if (!link.connected) return;
    await link.flush().catch(() => undefined); // then they find out by themselves
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#answering?.[Symbol.dispose]();
    this.#beats[Symbol.dispose]();
    await this.#candidacy[Symbol.asyncDispose]();
  }

  #own(): SchedulerBeat {
    const { addresses, committer, id, leaderLeaseMs, link } = this.#options;
    const { replica } = committer;
    return {
      schedulerId: id,
      instance: this.#instance,
      epoch: replica.cluster.state.epoch,
      sequence: replica.sequence,
      leading: !this.#leaving && committer.confirmedWithin(leaderLeaseMs),
      leaving: this.#leaving,
      addresses: [...addresses],
      server: link.serverName,
    };
  }

  #member(beat: SchedulerBeat, silentMs: number): SchedulerMember {
    const { epoch } = this.#options.committer.replica.cluster.state;
    const silent = beat.leaving || silentMs > SILENT_BEATS * this.#beatMs;
    return {
      id: beat.schedulerId,
      role: silent ? "silent" : beat.leading && beat.epoch >= epoch ? "leader" : "standby",
      logSequence: beat.sequence,
      addresses: beat.addresses,
      server: beat.server,
      silentMs,
    };
  }
}
