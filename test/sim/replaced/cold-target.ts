/** In the place of agent/migrate/cold-target.ts: the same steps and the same records, without files. */
import { GodwitError } from "../../../proto/contract/error.ts";
import { MigrationPhase, type MigrationOrder } from "../../../proto/gen/godwit/v1/agent.ts";
import type { TargetInputs } from "../../../agent/migrate/target.ts";
import type { InitProcess } from "../../../agent/model/record.ts";
import { context, isReachable, machineOf } from "../context.ts";
import { within } from "./target.ts";
import { sleep } from "./timers.ts";

export async function receiveStopped(inputs: TargetInputs, order: MigrationOrder): Promise<InitProcess> {
  const { host, runtime, record, migrationId, signal, progress } = inputs;
  const { hub, conditions, kernel, random } = context();
  const machine = machineOf(host);
  progress.enter(MigrationPhase.PREPARING);
  inputs.setStatus({ kind: "restoring", migrationId, stage: "receiving" });
  await sleep(random.between(1, 100), signal);
  if (random.chance(conditions.troubles.startFailure))
    throw new GodwitError("refused", "this host cannot take it");
  using receiver = hub.receive(order.id, () => isReachable(machine));
  progress.enter(MigrationPhase.READY);
  await within(receiver.begun.promise, signal);
  progress.enter(MigrationPhase.RECEIVING);
  await within(receiver.whole.promise, signal);
  machine.files.set(runtime.id, kernel.filesOf(runtime.id));
  await sleep(random.between(0, 5), signal);
  inputs.setStatus({ kind: "restoring", migrationId, stage: "received" });
  const init = await runtime.create(record, signal);
  progress.enter(MigrationPhase.RESTORED);
  await within(inputs.switched(), signal);
  inputs.setStatus({ kind: "starting" });
  await runtime.begin(record, signal);
  return init;
}
