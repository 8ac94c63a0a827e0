import { GodwitError } from "../../proto/contract/error.ts";
import type { DesiredAllocation } from "../../proto/gen/godwit/v1/agent.ts";
import { hasRecovered, restartDelayMs } from "../model/restart-policy.ts";
import type { RecordedContainer } from "./container.ts";

/** The ordinary part of a container's life: it is started, it ends by itself, it is stopped. */
export class Life {
  readonly #container: RecordedContainer;
  /** Exit codes that the shim has told, by the pid of the first process. */
  readonly #exits = new Map<number, number>();

  constructor(container: RecordedContainer) {
    this.#container = container;
  }

  /** Answers whether it was this container's present first process. */
  onExit(initPid: number, exitCode: number): boolean {
    const { status } = this.#container;
    if (status === undefined || !("init" in status) || status.init?.pid !== initPid) return false;
    this.#exits.set(initPid, exitCode);
    return true;
  }

  async noticeExit(): Promise<void> {
    const { status, runtime } = this.#container;
    if (status?.kind !== "running" && status?.kind !== "frozen") return;
    if (runtime.isRunning(status.init)) return;
    const exitCode = await this.#exitCode(status.init.pid);
    const message = this.#whyEnded(exitCode);
    await runtime.tearDown();
    this.#noticeRecovery(status.startedAtMs);
    this.#container.found({
      kind: "stopped",
      exitCode: exitCode ?? -1,
      failed: false,
      message,
      startAtMs: this.#startAgainAtMs(),
    });
  }

  #whyEnded(exitCode: number | undefined): string {
    const { endedBecause, runtime } = this.#container;
    if (endedBecause !== "") return endedBecause;
    if (runtime.cgroup.outOfMemoryKills() > 0) return "killed: out of its memory limit";
    return exitCode === undefined ? "ended unseen" : "";
  }

  async start(desired: DesiredAllocation, signal: AbortSignal): Promise<void> {
    const { runtime, logger } = this.#container;
    const previous = this.#container.record;
    const again = previous?.status.kind === "stopped";
    // The agent that was stopping it died before it was done.
    if (previous?.status.kind === "halted" && runtime.isRunning(previous.status.init))
      await runtime.stop(previous, previous.status.init, signal);
    // Somebody has asked for this one: it does not follow from the ones before.
    const isWanted = desired.restartGeneration > (previous?.restartGeneration ?? 0);
    const record = this.#container.begin(desired, {
      restarts: (previous?.restarts ?? 0) + (again ? 1 : 0),
      recentRestarts: isWanted ? 0 : (previous?.recentRestarts ?? 0) + (again ? 1 : 0),
    });
    try {
      await runtime.makeFolders();
      this.#container.setStatus({ kind: "starting" });
      const init = await runtime.start(record, signal);
      this.#container.setStatus({ kind: "running", init, startedAtMs: Date.now() });
    } catch (error) {
      const failure = GodwitError.from(error);
      logger.warn({ err: failure }, "the container could not be started");
      await runtime.tearDown();
      // Nobody wants it any more, or the agent stops: it has not failed, and is begun again if it is still wanted.
      if (signal.aborted) return;
      this.#container.found({
        kind: "stopped",
        exitCode: 127,
        failed: true,
        message: failure.message,
        startAtMs: this.#startAgainAtMs(),
      });
    }
  }

  async stop(signal: AbortSignal): Promise<void> {
    const { record, runtime } = this.#container;
    const status = record?.status;
    if (record === undefined || status === undefined) return;
    let exitCode = 0;
    if (status.kind === "running" || status.kind === "halted") {
      await runtime.stop(record, status.init, signal);
      exitCode = (await this.#exitCode(status.init.pid)) ?? 0;
    } else await runtime.tearDown();
    this.#container.recover();
    this.#container.found({ kind: "stopped", exitCode, failed: false, message: "stopped", startAtMs: 0 });
  }

  /** It runs, but does not do its work: it is stopped, and started again as if it had failed by itself. */
  async giveUp(why: string, signal: AbortSignal): Promise<void> {
    const { logger, record, runtime } = this.#container;
    if (record?.status.kind !== "running") return;
    const { init, startedAtMs } = record.status;
    logger.warn({ why }, "the container is unhealthy and is restarted");
    await runtime.stop(record, init, signal);
    const exitCode = (await this.#exitCode(init.pid)) ?? -1;
    this.#noticeRecovery(startedAtMs);
    this.#container.found({
      kind: "stopped",
      exitCode,
      failed: true,
      message: `unhealthy: ${why}`,
      startAtMs: this.#startAgainAtMs(),
    });
  }

  #noticeRecovery(startedAtMs: number): void {
    const backoff = this.#container.record?.spec.backoff;
    if (hasRecovered(Date.now() - startedAtMs, backoff)) this.#container.recover();
  }

  #startAgainAtMs(): number {
    const { record } = this.#container;
    return Date.now() + restartDelayMs(record?.recentRestarts ?? 0, record?.spec.backoff);
  }

  async #exitCode(initPid: number): Promise<number | undefined> {
    const told = this.#exits.get(initPid);
    this.#exits.clear();
    return told ?? (await this.#container.recordedExit(initPid));
  }
}
