/** In the place of agent/checkpoints/take.ts: the same steps and the same records, without CRIU and without bytes. */
import { GodwitError } from "../../../proto/contract/error.ts";
import type { CheckpointOrder } from "../../../proto/gen/godwit/v1/checkpoint.ts";
import type { RememberedCheckpoint, TakenCheckpoint, TakeInputs } from "../../../agent/checkpoints/take.ts";
import type { Host } from "../../../agent/host.ts";
import { checkpointStream } from "../checkpoints.ts";
import { context, isReachable, machineOf } from "../context.ts";
import { isFilled } from "./target.ts";
import { sleep } from "./timers.ts";

const KEEPER_SILENT_MS = 60_000;
const SEND_TRIES = 3;
const AGAIN_MS = 1_000;

export async function takeCheckpoint(
  inputs: TakeInputs,
): Promise<{ readonly figures: TakenCheckpoint; readonly remembered: RememberedCheckpoint }> {
  const { host, order, record, runtime, setStatus, signal } = inputs;
  const { conditions, kernel, random } = context();
  const machine = machineOf(host);
  const running = record()?.status;
  if (running?.kind !== "running") throw new GodwitError("refused", "the container does not run");
  const { init, startedAtMs } = running;
  const baseId = inputs.base?.init.pid === init.pid ? inputs.base.id : "";
  machine.writes();
  machine.spool.add(order.id);
  await isFilled(runtime, signal);
  await sleep(random.between(1, 200), signal);
  try {
    setStatus({ kind: "frozen", init, startedAtMs, migrationId: order.id, sent: "no" });
    const copy = machine.copies.get(runtime.id);
    if (copy === undefined || !runtime.isRunning(init))
      throw new GodwitError("refused", "the container ended before it was frozen");
    kernel.freeze(machine, copy);
    await sleep(random.between(5, 80), signal);
    if (random.chance(conditions.troubles.streamFailure))
      throw new GodwitError("internal", "the dump failed");
  } finally {
    if (record()?.status.kind === "frozen") {
      await sleep(random.between(0, 20));
      runtime.cgroup.thaw();
      setStatus({ kind: "running", init, startedAtMs });
    }
  }
  kernel.taken(order.id, baseId);
  return {
    figures: {
      baseId,
      sizeBytes: baseId === "" ? 10 : 3,
      memoryBytes: 4_096,
      wholeBytes: 10,
      blackoutMs: 10,
    },
    remembered: { id: order.id, init } as RememberedCheckpoint,
  };
}

export async function sendToKeepers(host: Host, order: CheckpointOrder, signal: AbortSignal): Promise<void> {
  const { hub } = context();
  const machine = machineOf(host);
  const reachable = (): boolean => isReachable(machine);
  const patience = { signal, idleMs: KEEPER_SILENT_MS };
  await Promise.all(
    order.keepers.map(async ({ node }) => {
      const stream = checkpointStream(order.id, node);
      for (let attempt = 1; ; attempt += 1) {
        try {
          await hub.begin(stream, reachable, patience);
          await hub.finish(stream, 0, reachable, patience);
          return;
        } catch (error) {
          if (signal.aborted || attempt === SEND_TRIES) throw error;
          await sleep(AGAIN_MS, signal);
        }
      }
    }),
  );
}
