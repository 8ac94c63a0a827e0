/** One layer on its way from an archive into the store. */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { CompressStream } from "zstd-napi";
import type { ImageLayer } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { LayerSource } from "./archive.ts";
import { TarPolicy } from "./tar-policy.ts";
import { walkTar } from "./tar-walk.ts";

/** zstd's own default: 3 packs system files about as well as gzip -9, at hundreds of MB/s. */
const COMPRESSION_LEVEL = 3;

/** Reads the whole layer once: every entry must be harmless, and the content must be what the image promises. */
export async function inspectLayer(
  source: LayerSource,
  maxBytes: number,
  signal: AbortSignal,
): Promise<ImageLayer> {
  await source.verify?.();
  const policy = new TarPolicy();
  const hash = createHash("sha256");
  let sizeBytes = 0;
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const chunk of source.open()) {
      signal.throwIfAborted();
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) {
        throw new GodwitError(
          "exhausted",
          `${source.where} takes the image over the limit of ${maxBytes} bytes (maxImageBytes of the API's configuration)`,
        );
      }
      hash.update(chunk);
      yield chunk;
    }
  }
  await walkTar(counted(), source.where, (header) => policy.check(header));
  const hex = hash.digest("hex");
  const diffId = `sha256:${hex}`;
  if (source.diffId !== undefined && source.diffId !== diffId) {
    throw new GodwitError(
      "corrupt",
      `${source.where} does not hold what the image's configuration promises (${source.diffId}, found ${diffId}): the archive is damaged or was changed`,
    );
  }
  return { diffId, object: `layer/${hex}`, sizeBytes };
}

/** The layer as it is stored: its tar, unchanged, compressed with zstd. */
export async function* compressedLayer(source: LayerSource): AsyncGenerator<Buffer> {
  const input = Readable.from(source.open(), { objectMode: false });
  const compressor = new CompressStream({ compressionLevel: COMPRESSION_LEVEL, checksumFlag: true });
  const state: { sourceError?: unknown } = {};
  input.on("error", (error) => {
    state.sourceError = error;
    compressor.destroy(error);
  });
  input.pipe(compressor);
  try {
    for await (const chunk of compressor) yield chunk as Buffer;
  } catch (error) {
    throw state.sourceError ?? error;
  } finally {
    input.destroy();
    compressor.destroy();
  }
}
