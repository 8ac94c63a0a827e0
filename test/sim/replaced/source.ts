/** In the place of agent/migrate/source.ts: the same steps and the same records, without CRIU and without bytes. */
import { GodwitError } from "../../../proto/contract/error.ts";
import { MigrationPhase } from "../../../proto/gen/godwit/v1/agent.ts";
import type { SourceInputs } from "../../../agent/migrate/copy-terms.ts";
import type { CopyOutcome } from "../../../agent/migrate/source.ts";
import type { RecordStatus } from "../../../agent/model/record.ts";
import { context, isReachable, machineOf } from "../context.ts";
import { isFilled } from "./target.ts";
import { sleep } from "./timers.ts";

export async function copyToTarget(inputs: SourceInputs): Promise<CopyOutcome> {
  const { host, runtime, record, progress, order, signal } = inputs;
  const running = record.status;
  if (running.kind !== "running")
    throw new GodwitError("refused", `the container is ${running.kind}, not running`);
  const { hub, kernel, random, conditions } = context();
  const machine = machineOf(host);
  const reachable = (): boolean => isReachable(machine);
  const { init } = running;
  const frozen = (sent: "no" | "maybe" | "yes"): RecordStatus => ({
    kind: "frozen",
    init,
    startedAtMs: running.startedAtMs,
    migrationId: order.id,
    sent,
  });
  progress.enter(MigrationPhase.COPYING);
  await isFilled(runtime, signal);
  try {
    await hub.begin(order.id, reachable, { signal });
    for (let round = 0; round < 2; round += 1) {
      await sleep(random.between(1, 200), signal);
      progress.sent((round + 1) * 1_000);
    }
    signal.throwIfAborted();
    inputs.setStatus(frozen("no"));
    await sleep(random.between(0, 5), signal);
    const copy = machine.copies.get(runtime.id);
    if (copy === undefined || !runtime.isRunning(init))
      throw new GodwitError("refused", "the container ended before it was frozen");
    kernel.freeze(machine, copy);
    progress.enter(MigrationPhase.FROZEN);
    await sleep(random.between(5, 80), signal);
    if (random.chance(conditions.troubles.streamFailure))
      throw new GodwitError("internal", "the dump failed");
    signal.throwIfAborted();
    // From here on the target may have the whole image, whatever this host learns of it.
    inputs.setStatus(frozen("maybe"));
    await hub.finish(order.id, copy.life, reachable, { signal });
    inputs.setStatus(frozen("yes"));
  } catch (error) {
    const reason: unknown = signal.aborted ? signal.reason : error;
    hub.abort(order.id, GodwitError.from(reason).message, reachable);
    throw reason;
  }
  progress.enter(MigrationPhase.DUMPED);
  return { forecastMs: 0, recording: undefined, grip: new DisposableStack() };
}
