/** In the place of agent/migrate/target.ts: the same steps and the same records, without CRIU and without bytes. */
import { GodwitError } from "../../../proto/contract/error.ts";
import { MigrationPhase, type MigrationOrder } from "../../../proto/gen/godwit/v1/agent.ts";
import type { ContainerRuntime } from "../../../agent/container/runtime.ts";
import type { TargetInputs } from "../../../agent/migrate/target.ts";
import type { InitProcess } from "../../../agent/model/record.ts";
import { context, isReachable, machineOf } from "../context.ts";
import { sleep } from "./timers.ts";

/** Of what stands still before its first instruction. */
const HELD_LOOK_MS = 20;

export const within = <T>(promise: Promise<T>, signal: AbortSignal): Promise<T> => {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const end = (): void => reject(GodwitError.from(signal.reason));
  if (signal.aborted) end();
  signal.addEventListener("abort", end, { once: true });
  return Promise.race([promise, aborted]).finally(() => signal.removeEventListener("abort", end));
};

export async function receiveFromSource(inputs: TargetInputs, order: MigrationOrder): Promise<InitProcess> {
  const { host, runtime, migrationId, signal, progress } = inputs;
  const { hub, conditions, kernel, random } = context();
  const machine = machineOf(host);
  progress.enter(MigrationPhase.PREPARING);
  inputs.setStatus({ kind: "restoring", migrationId, stage: "receiving" });
  kernel.dropImage(machine, runtime.id);
  await sleep(random.between(1, 100), signal);
  if (random.chance(conditions.troubles.startFailure))
    throw new GodwitError("refused", "this host cannot take it");
  using receiver = hub.receive(order.id, () => isReachable(machine));
  progress.enter(MigrationPhase.READY);
  await within(receiver.begun.promise, signal);
  progress.enter(MigrationPhase.RECEIVING);
  const life = await within(receiver.whole.promise, signal);
  machine.images.set(runtime.id, { migrationId, life, resumes: false });
  machine.files.set(runtime.id, kernel.filesOf(runtime.id));
  await sleep(random.between(0, 5), signal);
  inputs.setStatus({ kind: "restoring", migrationId, stage: "received", description: "whole" });
  return await restore(inputs);
}

export async function restoreAgain(inputs: TargetInputs): Promise<InitProcess> {
  await inputs.runtime.discardHalfRestored();
  return await restore(inputs);
}

async function restore(inputs: TargetInputs): Promise<InitProcess> {
  const { host, runtime, record, migrationId, signal, progress } = inputs;
  const { conditions, kernel, random, world } = context();
  const machine = machineOf(host);
  const image = machine.images.get(runtime.id);
  if (image?.migrationId !== migrationId) throw new GodwitError("corrupt", "the image is not here");
  await sleep(random.between(5, 100), signal);
  if (random.chance(conditions.troubles.restoreFailure))
    throw new GodwitError("internal", "CRIU could not restore it");
  const copy = kernel.restore(machine, runtime.id, image.life);
  try {
    progress.enter(MigrationPhase.RESTORED);
    await within(inputs.switched(), signal);
    // From here on CRIU goes on to the end, whatever becomes of this process.
    inputs.setStatus({ kind: "restoring", migrationId, stage: "ran", init: copy.init });
    await sleep(random.between(0, 2));
  } catch (error) {
    if (machine.copies.get(runtime.id) === copy) machine.copies.delete(runtime.id);
    throw error;
  }
  const { promise, resolve } = Promise.withResolvers<void>();
  image.resumes = true;
  const resume = (): void => {
    if (machine.copies.get(runtime.id) !== copy || copy.state !== "held") return;
    if (machine.isFenced || copy.isHeldBack) {
      world.after(HELD_LOOK_MS, undefined, resume);
      return;
    }
    kernel.run(machine, copy, record.epoch);
    const { agent } = machine;
    if (agent !== undefined) world.after(0, agent, resolve);
  };
  world.after(random.between(1, 30), undefined, resume);
  try {
    await within(promise, signal);
  } catch (error) {
    // Ending CRIU ends what it has built.
    if (copy.state === "held" && machine.copies.get(runtime.id) === copy) machine.copies.delete(runtime.id);
    throw error;
  }
  return copy.init;
}

export async function releaseNetwork(): Promise<void> {
  await Promise.resolve();
}
export function stopFilling(): void {
  // All memory is there at once.
}
export async function isFilled(): Promise<boolean> {
  await Promise.resolve();
  return true;
}
export async function dropImage(runtime: ContainerRuntime): Promise<void> {
  const { kernel, random } = context();
  await sleep(random.between(0, 20));
  const name = runtime.paths.images.split("/")[0] ?? "";
  const machine = kernel.machines.get(name);
  // A later arrival has put its own there.
  if (machine?.copies.get(runtime.id)?.state === "running") kernel.dropImage(machine, runtime.id);
}
