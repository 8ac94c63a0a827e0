import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";

import type { Logger } from "pino";

import type { FreezerFiles } from "../container/cgroup.ts";
import { bootTimeNs } from "../native/boot-clock.ts";
import { decodeAnswers, encodeOrder, type FenceAnswer, NO_DEADLINE, Order, type OrderWord } from "./wire.ts";

const NS_PER_MS = 1_000_000n;
const AGAIN_MS = 50;
const LONGEST_AGAIN_MS = 2_000;
/** A fence that has not answered for so long is none. */
const ANSWER_WITHIN_MS = 2_000;
const LOOK_MS = 100;
const REPLACED_WITHIN_MS = 1_500;
/** With containers that an earlier lease may cover, and without any. */
const OPEN_FOR_MS = 500;
const OPEN_WITHOUT_CONTAINERS_MS = 60_000;

export interface HostFenceOptions {
  /** Undefined: this host has none. */
  readonly program: string | undefined;
  readonly socketPath: string;
  /** Of the cgroup that all containers are below. */
  readonly freezer: FreezerFiles;
  readonly link: string;
  readonly hasContainers: () => boolean;
  readonly logger: Logger;
  /** Open or closed, armed or not: something has changed. */
  readonly changed: () => void;
}

/**
 * The agent's side of the host's fence (deploy/fence/fence.c): a small process that outlives the agent and freezes all
 * containers of the host when the lease that the scheduler has granted ends. This class keeps it running, tells it each
 * deadline, and freezes them itself should the fence be the one that is not there when a deadline passes.
 *
 * Only the fence ever lifts, and only with a deadline that has not passed: so an agent that was stopped between the
 * answer of the scheduler and this order thaws nothing when it wakes.
 */
export class HostFence implements Disposable {
  readonly #options: HostFenceOptions;
  #socket: Socket | undefined;
  #rest: Buffer = Buffer.alloc(0);
  readonly #waiting: PromiseWithResolvers<FenceAnswer | undefined>[] = [];
  #state: FenceAnswer["state"] = "open";
  /** What the containers of this host may run until; undefined: no lease has been granted since this agent began. */
  #untilNs: bigint | undefined;
  #leaseMs = 0;
  /** When the fence last confirmed the deadline that it was told. */
  #confirmedAtMs = -Infinity;
  #confirmed = false;
  #againMs = AGAIN_MS;
  #again: NodeJS.Timeout | undefined;
  readonly #look: NodeJS.Timeout;
  #isClosedHere = false;
  #closed = false;
  #fault: string;

  private constructor(options: HostFenceOptions) {
    this.#options = options;
    this.#fault =
      options.program === undefined
        ? "godwit-fence is not installed: run deploy/setup.sh"
        : "the fence of this host has not answered yet";
    this.#look = setInterval(() => this.#lookAtClock(), LOOK_MS);
  }

  /** Resolves when the fence has told its state, or when it is known that there is none for now. */
  static async open(options: HostFenceOptions): Promise<HostFence> {
    const fence = new HostFence(options);
    if (options.program !== undefined) {
      const deadlineMs = performance.now() + ANSWER_WITHIN_MS;
      fence.#connect();
      while (fence.#socket === undefined && performance.now() < deadlineMs)
        await new Promise((resolve) => setTimeout(resolve, 10));
      await fence.#ask(Order.query, 0n);
    }
    return fence;
  }

  /** Containers stand still, and nothing about them may be changed: the lease has ended. */
  get isClosed(): boolean {
    return this.#state !== "open" || this.#isClosedHere;
  }

  /**
   * For how long after the last answered report was sent containers run on, at most; 0: for ever. Undefined: this agent
   * has no lease yet, and what the one before it has said still holds.
   */
  get armedMs(): number | undefined {
    if (this.#options.program === undefined) return 0;
    if (this.#untilNs === undefined) return undefined;
    // While one that died is replaced, this process watches over the deadline.
    const isArmed = this.#confirmed || performance.now() - this.#confirmedAtMs < REPLACED_WITHIN_MS;
    return isArmed ? this.#leaseMs : 0;
  }

  /** Why it is not armed, if it should be. */
  get fault(): string {
    const isWanted = this.#leaseMs > 0 || this.#options.program === undefined;
    return this.armedMs === 0 && isWanted ? this.#fault : "";
  }

  /** @param sentAtNs when the report was sent that was answered, by bootTimeNs; leaseMs 0: the cluster fences nobody */
  async extend(sentAtNs: bigint, leaseMs: number): Promise<void> {
    const untilNs = leaseMs === 0 ? NO_DEADLINE : sentAtNs + BigInt(leaseMs) * NS_PER_MS;
    const wasArmedMs = this.armedMs;
    this.#untilNs = untilNs;
    this.#leaseMs = leaseMs;
    const answer = await this.#ask(Order.extend, untilNs);
    this.#confirm(answer);
    if (this.armedMs !== wasArmedMs) this.#options.changed();
  }

  /** Answers whether the containers of this host may run: not when the deadline has passed meanwhile. */
  async lift(): Promise<boolean> {
    const untilNs = this.#untilNs;
    if (untilNs === undefined) return false;
    const answer = await this.#ask(Order.lift, untilNs);
    if (answer?.state !== "open") return false;
    this.#isClosedHere = false;
    this.#options.changed();
    return true;
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    clearInterval(this.#look);
    clearTimeout(this.#again);
    this.#socket?.destroy();
  }

  async #ask(what: OrderWord, untilNs: bigint): Promise<FenceAnswer | undefined> {
    const socket = this.#socket;
    if (socket === undefined) return undefined;
    const asked = Promise.withResolvers<FenceAnswer | undefined>();
    this.#waiting.push(asked);
    socket.write(encodeOrder(what, untilNs));
    const timer = setTimeout(() => {
      this.#fault = "the fence of this host does not answer";
      socket.destroy();
    }, ANSWER_WITHIN_MS);
    try {
      return await asked.promise;
    } finally {
      clearTimeout(timer);
    }
  }

  #confirm(answer: FenceAnswer | undefined): void {
    this.#confirmed = this.#leaseMs > 0 && answer !== undefined && answer.untilNs === this.#untilNs;
    if (this.#confirmed) this.#confirmedAtMs = performance.now();
  }

  #connect(): void {
    const socket = connect(this.#options.socketPath);
    socket.on("connect", () => {
      this.#socket = socket;
      this.#rest = Buffer.alloc(0);
      this.#againMs = AGAIN_MS;
      // One that has just begun does not know how long the containers may still run.
      if (this.#untilNs !== undefined && this.#untilNs > bootTimeNs())
        void this.#ask(Order.extend, this.#untilNs).then((answer) => {
          this.#confirm(answer);
          this.#options.changed();
        });
    });
    socket.on("data", (bytes: Buffer) => this.#take(bytes));
    socket.on("error", () => undefined); // "close" follows
    socket.on("close", () => this.#lost(socket));
    socket.unref();
  }

  #take(bytes: Buffer): void {
    const { answers, rest } = decodeAnswers(Buffer.concat([this.#rest, bytes]));
    this.#rest = rest;
    for (const answer of answers) {
      const before = this.isClosed;
      this.#state = answer.state;
      if (!before && this.isClosed) this.#tellClosed();
      this.#waiting.shift()?.resolve(answer);
    }
  }

  #lost(socket: Socket): void {
    if (this.#socket === socket) {
      this.#socket = undefined;
      this.#confirmed = false;
      for (const waiting of this.#waiting.splice(0)) waiting.resolve(undefined);
      if (!this.#closed) this.#options.logger.warn("the fence of this host is gone: starting another");
      this.#options.changed();
    }
    if (this.#closed) return;
    this.#start();
    this.#again = setTimeout(() => this.#connect(), this.#againMs);
    this.#againMs = Math.min(this.#againMs * 2, LONGEST_AGAIN_MS);
  }

  /** One that runs already lets the new one end. */
  #start(): void {
    const { program, socketPath, freezer, link, hasContainers, logger } = this.#options;
    if (program === undefined) return;
    const openForMs = hasContainers() ? OPEN_FOR_MS : OPEN_WITHOUT_CONTAINERS_MS;
    const child = spawn(
      program,
      [
        ...[socketPath, String(openForMs), freezer.control, freezer.frozen, freezer.thawed],
        ...[freezer.confirm, freezer.confirmed, link],
      ],
      // A session of its own: what ends the agent does not end it.
      { detached: true, cwd: "/", stdio: ["ignore", "ignore", "inherit"] },
    );
    child.on("error", (error) => {
      this.#fault = `godwit-fence cannot be started: ${error.message}`;
      logger.error({ err: error }, this.#fault);
    });
    child.unref();
  }

  /** The fence's clock is the one that counts; this one is for when the fence is gone or stands still. */
  #lookAtClock(): void {
    if (this.#isClosedHere || this.#leaseMs === 0 || this.#untilNs === undefined) return;
    // Without a fence the scheduler starts nothing elsewhere, so there is nothing to stop for.
    if (this.#options.program === undefined || bootTimeNs() < this.#untilNs) return;
    const wasClosed = this.isClosed;
    this.#isClosedHere = true;
    const { freezer, logger } = this.#options;
    try {
      writeFileSync(freezer.control, freezer.frozen);
    } catch (error) {
      logger.error({ err: error }, "the containers of this host could not be frozen at the end of its lease");
    }
    if (!wasClosed) this.#tellClosed();
    void this.#ask(Order.query, 0n);
  }

  #tellClosed(): void {
    this.#options.logger.warn(
      "the lease has ended: the containers of this host stand still until the scheduler answers again",
    );
    this.#options.changed();
  }
}
