/** `image import` and `image rm`. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { ClientWritableStream } from "@grpc/grpc-js";
import type { ImageInfo, ImportImageRequest } from "../../../proto/gen/godwit/v1/api.ts";
import type { ImageConfig } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import { untilWritable } from "../api-client.ts";
import { printJson, type OutputFormat } from "../output.ts";
import { startProgress, type Progress } from "../progress.ts";
import { formatBytes } from "../quantity.ts";
import { connectApi, say } from "../session.ts";
import { imageRow } from "../shape/image.ts";

/** Well below the API's limit for one message. */
const CHUNK_BYTES = 256 * 1024;

interface Source {
  readonly chunks: AsyncIterable<Buffer>;
  /** 0: not known. */
  readonly totalBytes: number;
}

export interface ImportOptions {
  readonly api?: string;
  readonly output: OutputFormat;
  readonly format: string;
  readonly config: ImageConfig;
}

export async function importImage(name: string, path: string, options: ImportOptions): Promise<void> {
  const source = await openSource(path);
  using api = await connectApi(options.api);
  await api.findLeader();
  const { promise: answered, resolve, reject } = Promise.withResolvers<ImageInfo>();
  const answer: { done: boolean } = { done: false };
  const call = api.stub.importImage((error, image) => {
    answer.done = true;
    if (error === null) resolve(image);
    else reject(error);
  });
  {
    using progress = await startProgress();
    const sending = send(
      call,
      { name, format: options.format, config: options.config },
      source,
      progress,
      () => answer.done,
    );
    sending.catch(() => call.cancel()); // the archive cannot be read: do not leave half an import behind
    await Promise.race([answered, sending]);
    progress.update(source.totalBytes, source.totalBytes, "being checked and stored");
    // A failure to read our own file is the better explanation of the two.
    await sending;
    await answered;
  }
  const image = await answered;
  if (options.output === "json") printJson(imageRow(image));
  else
    say(
      `${image.name} imported: ${image.digest.slice(0, 19)}, ${formatBytes(image.sizeBytes)} in ${image.layers} layer${image.layers === 1 ? "" : "s"}`,
    );
}

async function send(
  call: ClientWritableStream<ImportImageRequest>,
  header: { name: string; format: string; config: ImageConfig },
  source: Source,
  progress: Progress,
  answered: () => boolean,
): Promise<void> {
  const write = async (message: ImportImageRequest): Promise<void> => {
    if (!call.write(message)) await untilWritable(call);
  };
  await write({ part: { $case: "header", value: header } });
  let doneBytes = 0;
  for await (const chunk of source.chunks) {
    for (let from = 0; from < chunk.length; from += CHUNK_BYTES) {
      if (answered()) return; // refused already; the answer says why
      const value = chunk.subarray(from, from + CHUNK_BYTES);
      await write({ part: { $case: "data", value } });
      doneBytes += value.length;
      progress.update(doneBytes, source.totalBytes, header.name);
    }
  }
  call.end();
}

async function openSource(path: string): Promise<Source> {
  if (path === "-") return { chunks: process.stdin as AsyncIterable<Buffer>, totalBytes: 0 };
  let found;
  try {
    found = await stat(path);
  } catch (error) {
    throw new GodwitError(
      "not-found",
      `${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
  if (!found.isDirectory())
    return { chunks: createReadStream(path, { highWaterMark: CHUNK_BYTES }), totalBytes: found.size };
  const isLayout = await stat(join(path, "oci-layout")).then(
    (file) => file.isFile(),
    () => false,
  );
  if (!isLayout)
    throw new GodwitError(
      "invalid",
      `${path} is a folder without the file oci-layout; pack a root file system with: tar -C ${path} -c . | godwit image import NAME -`,
    );
  const { tarOfFolder } = await import("../folder-tar.ts");
  return tarOfFolder(path);
}

export async function removeImages(
  names: readonly string[],
  options: { readonly api?: string },
): Promise<void> {
  using api = await connectApi(options.api);
  for (const name of names) {
    await api.call("removeImage", { name });
    say(`${name} removed`);
  }
}
