/** In the place of agent/migrate/target.ts: the same steps and the same records, without CRIU and without bytes. */
import { GodwitError } from "../../../proto/contract/error.ts";
import { MigrationPhase, type MigrationOrder } from "../../../proto/gen/godwit/v1/agent.ts";
import type { ContainerRuntime } from "../../../agent/container/runtime.ts";
import type { TargetInputs } from "../../../agent/migrate/target.ts";
import type { InitProcess } from "../../../agent/model/record.ts";
import { MigrationMode } from "../../../proto/gen/godwit/v1/spec.ts";
import { context, isReachable, machineOf } from "../context.ts";
import { sleep } from "./timers.ts";

/** Of a post-copy's memory. */
const MOST_PIECES = 12;
const FILLED_LOOK_MS = 100;

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
  machine.writes();
  const isPostcopy = order.mode === MigrationMode.POSTCOPY;
  // One that is small has all of its memory in what comes at once.
  const lacking = isPostcopy ? random.below(MOST_PIECES) : 0;
  machine.images.set(runtime.id, { migrationId, life, lacking, resumes: false });
  machine.files.set(runtime.id, kernel.filesOf(runtime.id));
  await sleep(random.between(0, 5), signal);
  inputs.setStatus({
    kind: "restoring",
    migrationId,
    stage: "received",
    description: "whole",
    ...(isPostcopy ? { following: { migrationId, from: order.peerNode } } : {}),
  });
  inputs.following?.begin();
  return await restoreImage(inputs);
}

export async function restoreAgain(inputs: TargetInputs): Promise<InitProcess> {
  const { conditions, random } = context();
  const { host, runtime } = inputs;
  await runtime.discardHalfRestored();
  const image = machineOf(host).images.get(runtime.id);
  // What fails once fails mostly for good.
  if (image !== undefined) image.isSpoilt ??= random.chance(conditions.troubles.restoreFailure);
  if (image?.isSpoilt === true) throw new GodwitError("internal", "CRIU can never restore it");
  return await restoreImage(inputs);
}

export async function restoreImage(inputs: TargetInputs): Promise<InitProcess> {
  const { host, runtime, record, migrationId, signal, progress } = inputs;
  const { conditions, kernel, random, world } = context();
  const machine = machineOf(host);
  const image = machine.images.get(runtime.id);
  if (image?.migrationId !== migrationId) throw new GodwitError("corrupt", "the image is not here");
  await sleep(random.between(5, 100), signal);
  if (random.chance(conditions.troubles.restoreFailure))
    throw new GodwitError("internal", "CRIU could not restore it");
  const copy = kernel.restore(machine, runtime.id, image);
  const dead = new AbortController();
  const { agent } = machine;
  copy.onCriuDeath = () =>
    void world.after(1, agent, () => dead.abort(new GodwitError("internal", "CRIU was killed")));
  const alive = AbortSignal.any([signal, dead.signal]);
  try {
    progress.enter(MigrationPhase.RESTORED);
    await within(inputs.switched(), alive);
    // From here on CRIU goes on to the end, whatever becomes of this process.
    inputs.setStatus({ kind: "restoring", migrationId, stage: "ran", init: copy.init });
    await sleep(random.between(0, 2));
  } catch (error) {
    if (machine.copies.get(runtime.id) === copy) machine.copies.delete(runtime.id);
    throw error;
  }
  const { promise, resolve } = Promise.withResolvers<void>();
  if (machine.copies.get(runtime.id) === copy) image.resumes = true;
  const resume = (): void => {
    if (machine.copies.get(runtime.id) !== copy || copy.state !== "held") return;
    if (machine.isFenced || copy.isHeldBack) {
      copy.onOpen = resume;
      return;
    }
    // From a checkpoint another life begins.
    if (copy.life === 0) kernel.begin(machine, copy, record.epoch);
    else kernel.run(machine, copy, record.epoch);
    if (agent !== undefined) world.after(0, agent, resolve);
  };
  world.after(random.between(1, 30), undefined, resume);
  try {
    await within(promise, alive);
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
  // The container has ended, and with it what fills its memory.
}
export async function isFilled(runtime: ContainerRuntime, signal: AbortSignal): Promise<boolean> {
  const machine = context().kernel.machines.get(runtime.paths.images.split("/")[0] ?? "");
  while ((machine?.copies.get(runtime.id)?.lacking ?? 0) > 0) await sleep(FILLED_LOOK_MS, signal);
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
