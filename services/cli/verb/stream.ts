/** `logs` and `events`: lines until there are no more. */
import type { Writable } from "node:stream";
import type { ClientReadableStream } from "@grpc/grpc-js";
import type { Event, LogsResponse } from "../../../proto/gen/godwit/v1/api.ts";
import { followStream } from "../follow.ts";
import { printJson, type OutputFormat } from "../output.ts";
import { connectApi, waitInterruptibly } from "../session.ts";
import { eventLine, eventRow } from "../shape/cluster.ts";

export interface LogsOptions {
  readonly api?: string;
  readonly follow: boolean;
  /** Negative: all. */
  readonly tail: number;
  readonly timestamps: boolean;
}

export async function logs(nameOrId: string, options: LogsOptions): Promise<void> {
  using api = await connectApi(options.api);
  await api.findLeader();
  const { follow, tail, timestamps } = options;
  await waitInterruptibly(
    () => "",
    async (signal) => {
      // Where another scheduler goes on, and what of it was shown already.
      let fromOffset: number | undefined;
      const shown = { stdout: 0, stderr: 0 };
      let again = { stdout: 0, stderr: 0 };
      const open = (): ClientReadableStream<LogsResponse> => {
        again = { ...shown };
        return api.stub.logs({
          ...{ nameOrId, follow, tail, timestamps },
          ...(fromOffset === undefined ? {} : { fromOffset }),
        });
      };
      for await (const message of followStream(open, signal)) {
        for (const name of ["stdout", "stderr"] as const) {
          const fresh = message[name].subarray(again[name]);
          again[name] -= message[name].length - fresh.length;
          shown[name] += fresh.length;
          if (fresh.length > 0) await write(process[name], fresh);
        }
        if (message.nextOffset === undefined) continue;
        fromOffset = message.nextOffset;
        Object.assign(shown, again);
      }
    },
  );
}

export interface EventsOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly follow: boolean;
  readonly sinceMs: number;
}

/** As JSON one array, or with --follow one document a line. */
export async function events(options: EventsOptions): Promise<void> {
  using api = await connectApi(options.api);
  await api.findLeader();
  const { follow, sinceMs } = options;
  const all: unknown[] = [];
  // Of the last one that was shown, from which another scheduler goes on.
  let last = { atMs: sinceMs, sequence: 0, shown: 0 };
  await waitInterruptibly(
    () => "",
    async (signal) => {
      /** How many of the last one's entry are still to come again after a new beginning. */
      let again = 0;
      const open = (): ClientReadableStream<Event> => {
        again = last.shown;
        return api.stub.events({ follow, sinceMs: last.atMs });
      };
      for await (const event of followStream(open, signal)) {
        const { atMs, sequence } = event;
        if (sequence < last.sequence) continue;
        if (sequence === last.sequence && again > 0) {
          again -= 1;
          continue;
        }
        last = { atMs, sequence, shown: sequence === last.sequence ? last.shown + 1 : 1 };
        if (options.output !== "json") await write(process.stdout, `${printable(eventLine(event))}\n`);
        else if (follow) await write(process.stdout, `${JSON.stringify(eventRow(event))}\n`);
        else all.push(eventRow(event));
      }
    },
  );
  if (options.output === "json" && !follow) printJson(all);
}

// oxlint-disable-next-line no-control-regex
const printable = (text: string): string => text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");

/** Resolves when the stream takes more. */
export async function write(stream: Writable, data: Buffer | string): Promise<void> {
  if (stream.write(data)) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.once("drain", resolve);
  await promise;
}
