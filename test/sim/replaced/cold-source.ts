/** In the place of agent/migrate/cold-source.ts: the same steps and the same records, without files. */
import { GodwitError } from "../../../proto/contract/error.ts";
import { MigrationPhase } from "../../../proto/gen/godwit/v1/agent.ts";
import type { SourceInputs } from "../../../agent/migrate/copy-terms.ts";
import type { RecordStatus } from "../../../agent/model/record.ts";
import { context, isReachable, machineOf } from "../context.ts";
import { sleep } from "./timers.ts";

export async function copyStopped(inputs: Omit<SourceInputs, "sampler">): Promise<void> {
  const { host, runtime, record, order, progress, signal } = inputs;
  const running = record.status;
  if (running.kind !== "running")
    throw new GodwitError("refused", `the container is ${running.kind}, not running`);
  const { hub, random } = context();
  const machine = machineOf(host);
  const reachable = (): boolean => isReachable(machine);
  const { init, startedAtMs } = running;
  const halted = (sent: "no" | "maybe" | "yes"): RecordStatus => ({
    kind: "halted",
    init,
    startedAtMs,
    migrationId: order.id,
    sent,
  });
  progress.enter(MigrationPhase.COPYING);
  try {
    await hub.begin(order.id, reachable, { signal });
    await sleep(random.between(1, 200), signal);
    progress.sent(1_000);
    signal.throwIfAborted();
    if (!runtime.isRunning(init))
      throw new GodwitError("refused", "the container ended before it was stopped");
    inputs.setStatus(halted("no"));
    progress.enter(MigrationPhase.FROZEN);
    await runtime.stop(record, init, signal);
    signal.throwIfAborted();
    await sleep(random.between(1, 50), signal);
    signal.throwIfAborted();
    inputs.setStatus(halted("maybe"));
    await hub.finish(order.id, 0, reachable, { signal });
    inputs.setStatus(halted("yes"));
  } catch (error) {
    hub.abort(order.id, GodwitError.from(signal.aborted ? signal.reason : error).message, reachable);
    throw error;
  }
  progress.enter(MigrationPhase.DUMPED);
}
