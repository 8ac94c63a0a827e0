import { connect } from "@nats-io/transport-node";

import { migrationCreditSubject, migrationDataSubject } from "../../../proto/contract/subjects.ts";

/** What becomes of a message: what is delivered in its place. */
export type Fate = (bytes: Uint8Array, index: number, to: "target" | "source") => Uint8Array[];

/** Stands between the source's server and the target's, and treats each message of a migration as told. */
export async function relay(
  ports: { readonly source: number; readonly target: number },
  migration: string,
  fate: Fate,
): Promise<AsyncDisposable> {
  const [source, target] = await Promise.all([
    connect({ port: ports.source }),
    connect({ port: ports.target }),
  ]);
  let index = 0;
  const data = migrationDataSubject(migration);
  const credit = migrationCreditSubject(migration);
  source.subscribe(data, {
    callback: (_, message) => {
      for (const bytes of fate(message.data, index++, "target")) target.publish(data, bytes);
    },
  });
  target.subscribe(credit, {
    callback: (_, message) => {
      for (const bytes of fate(message.data, index++, "source")) source.publish(credit, bytes);
    },
  });
  await Promise.all([source.flush(), target.flush()]);
  return {
    async [Symbol.asyncDispose]() {
      await Promise.all([source.close(), target.close()]);
    },
  };
}
