/** In the place of agent/checkpoints/restore.ts: the same steps and the same records, without CRIU and without bytes. */
import { GodwitError } from "../../../proto/contract/error.ts";
import type { RestoreOrder } from "../../../proto/gen/godwit/v1/checkpoint.ts";
import type { TargetInputs } from "../../../agent/migrate/target.ts";
import type { InitProcess } from "../../../agent/model/record.ts";
import { context, machineOf } from "../context.ts";
import { restoreImage } from "./target.ts";
import { sleep } from "./timers.ts";

export async function restoreFromCheckpoint(inputs: TargetInputs, order: RestoreOrder): Promise<InitProcess> {
  const { host, migrationId, record, runtime, setStatus, signal } = inputs;
  const { kernel, random, world } = context();
  const machine = machineOf(host);
  const { checkpointId } = order;
  const files = [...order.base.map(({ id }) => id), checkpointId];
  try {
    const missing = files.find((id) => !machine.kept.has(id));
    if (missing !== undefined)
      throw new GodwitError("not-found", `checkpoint ${missing} is not kept on this host`);
    if (kernel.chainOf(checkpointId).join() !== files.join())
      world.violated(
        `checkpoint ${checkpointId} is to be restored from ${files.join()}, and is built otherwise`,
      );
    setStatus({ kind: "restoring", migrationId, stage: "receiving" });
    kernel.dropImage(machine, runtime.id);
    await sleep(random.between(1, 100), signal);
    // Of no life that there is: what it was has gone on since, and is lost.
    machine.images.set(runtime.id, { migrationId, life: 0, lacking: 0, resumes: false });
    kernel.layFiles(machine, runtime.id);
    setStatus({ kind: "restoring", migrationId, stage: "received", description: "whole" });
    return await restoreImage(inputs);
  } catch (error) {
    if (!signal.aborted && !GodwitError.from(error).retryable) {
      machine.failedRestores.add(`${runtime.id} ${record.epoch}`);
      // It is begun anew, and its record says why.
      kernel.forgive(runtime.id);
    }
    throw error;
  }
}
