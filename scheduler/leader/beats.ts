/** How schedulers know of each other. Nothing that is decided rests on it: it says when to look at the log. */
import { SCHEDULER_BEAT_SUBJECT, SCHEDULER_LEADER_SUBJECT } from "../../proto/contract/subjects.ts";
import { isName } from "../../proto/contract/ids.ts";
import { SchedulerBeat } from "../../proto/gen/godwit/v1/scheduler.ts";
import type { Link } from "../log/link.ts";
import type { Machine } from "../log/machine.ts";

export interface Peer {
  readonly beat: SchedulerBeat;
  readonly heardAtMs: number;
}

export interface BeatsOptions {
  readonly link: Link;
  readonly machine: Machine;
  readonly everyMs: number;
  /** What is to be told now. */
  readonly own: () => SchedulerBeat;
  readonly onHeard: (beat: SchedulerBeat) => void;
}

/** More would be no scheduler of ours. */
const MOST_PEERS = 64;
/** A process that has been silent for so long is not spoken of any more. */
const FORGET_MS = 600_000;

export class Beats implements Disposable {
  readonly #options: BeatsOptions;
  /** By scheduler id. */
  readonly #peers = new Map<string, Peer>();
  readonly #cleanup = new DisposableStack();

  constructor(options: BeatsOptions) {
    this.#options = options;
    const { everyMs, link, machine } = options;
    this.#cleanup.use(link.subscribe(SCHEDULER_BEAT_SUBJECT, ({ data }) => this.#hear(data)));
    this.#cleanup.use(machine.every(everyMs, () => this.publish()));
    this.#cleanup.use(link.onReconnect(() => this.publish()));
    this.publish();
  }

  get peers(): ReadonlyMap<string, Peer> {
    return this.#peers;
  }

  publish(): void {
    const { link, own } = this.#options;
    if (link.connected) link.publish(SCHEDULER_BEAT_SUBJECT, SchedulerBeat.encode(own()).finish());
  }

  /** The beat of the one that leads; "nobody" when it is certain that nobody answers for leading. */
  async askLeader(withinMs: number): Promise<SchedulerBeat | "nobody" | "silence"> {
    const answer = await this.#options.link.ask(SCHEDULER_LEADER_SUBJECT, new Uint8Array(), withinMs);
    if (answer.kind !== "answer") return answer.kind;
    return this.#hear(answer.data) ?? "silence";
  }

  [Symbol.dispose](): void {
    this.#cleanup.dispose();
  }

  #hear(data: Uint8Array): SchedulerBeat | undefined {
    const { machine, onHeard, own } = this.#options;
    let beat: SchedulerBeat;
    try {
      beat = SchedulerBeat.decode(data);
    } catch {
      return undefined; // of a version that speaks otherwise
    }
    if (!isName(beat.schedulerId) || beat.instance === own().instance) return undefined;
    const now = machine.nowMs();
    for (const [id, { heardAtMs }] of this.#peers) if (now - heardAtMs > FORGET_MS) this.#peers.delete(id);
    if (this.#peers.size >= MOST_PEERS && !this.#peers.has(beat.schedulerId)) return undefined;
    this.#peers.set(beat.schedulerId, { beat, heardAtMs: now });
    onHeard(beat);
    return beat;
  }
}

/** While it is not disposed of, "who leads?" is answered. */
export const answerForLeading = (link: Link, answer: () => SchedulerBeat | undefined): Disposable =>
  link.subscribe(SCHEDULER_LEADER_SUBJECT, (message) => {
    const beat = answer();
    if (beat !== undefined) message.respond(SchedulerBeat.encode(beat).finish());
  });
