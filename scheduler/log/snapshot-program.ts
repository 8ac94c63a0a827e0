/** The thread that makes one snapshot; see snapshot-thread.ts. */
import { setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import { connect } from "@nats-io/transport-node";
import { GodwitError } from "../../proto/contract/error.ts";
import { JetStreamLog } from "./jetstream-log.ts";
import { makeSnapshot } from "./snapshot-making.ts";
import type { FromSnapshotThread, SnapshotThreadTerms } from "./snapshot-thread.ts";
import { SnapshotStore } from "./snapshots.ts";

/** Nobody waits for it. On Linux this is of this thread alone. */
const NICE = 10;

const port = parentPort;
if (port === null) throw new Error("this is a thread's program");
const tell = (message: FromSnapshotThread): void => port.postMessage(message);
const warn = (fields: { readonly snapshot: string; readonly err: Error }, text: string): void =>
  tell({ kind: "warning", fields: { snapshot: fields.snapshot, reason: fields.err.message }, text });

const { replicas, sequence, settings } = workerData as SnapshotThreadTerms & { readonly sequence: number };
setPriority(NICE);
try {
  const connection = await connect(settings);
  try {
    const log = await JetStreamLog.open(connection, { replicas, writer: "snapshot" });
    const snapshots = await SnapshotStore.open(connection, replicas, { warn });
    tell({ kind: "saved", saved: await makeSnapshot(log, snapshots, sequence) });
  } finally {
    await connection.close();
  }
} catch (error) {
  const { code, message } = GodwitError.from(error, "unavailable");
  tell({ kind: "failed", code, message });
}
