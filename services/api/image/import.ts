/** Takes an image archive in: spool, look inside, check every entry, store the layers, record the image. */
import type { Logger } from "pino";
import type { Image, ImageLayer } from "../../../proto/gen/godwit/v1/spec.ts";
import type { ImportImageHeader } from "../../../proto/gen/godwit/v1/api.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import {
  ArchiveIndex,
  detectFormat,
  FORMATS,
  uncompressed,
  type Format,
  type ImageSource,
} from "./archive.ts";
import { openDockerArchive } from "./docker-archive.ts";
import { checkImageName, imageDigest, mergeConfig } from "./identity.ts";
import { compressedLayer, inspectLayer } from "./layer.ts";
import type { LayerLedger } from "./layer-ledger.ts";
import { openOciLayout } from "./oci-layout.ts";
import type { SpoolFile, SpoolFolder } from "./spool.ts";

export interface ImportSettings {
  readonly spool: SpoolFolder;
  readonly ledger: LayerLedger;
  readonly logger: Logger;
  /** Of all layers together, uncompressed. */
  readonly maxImageBytes: number;
  readonly nowMs: () => number;
}

/** More would make the list of overlayfs's lower folders too long for one mount. */
const MAX_LAYERS = 256;
/** A lost connection to NATS comes back in seconds; the upload of a layer is then begun again. */
const UPLOAD_ATTEMPTS = 3;

/**
 * Imports the archive in `chunks`. `record` makes the image known once all of its layers are stored; until it has
 * returned no layer of the image is taken away as unused.
 */
export async function importImage(
  settings: ImportSettings,
  header: ImportImageHeader,
  chunks: AsyncIterable<Buffer>,
  record: (image: Image) => Promise<void>,
  signal: AbortSignal,
): Promise<Image> {
  checkImageName(header.name);
  const format = checkFormat(header.format);
  await using received = await settings.spool.write(chunks, "the archive", signal);
  await using unpacked = await uncompressed(received, settings.spool, signal);
  const archive = unpacked ?? received;
  const source = await openArchive(archive, format, header.name);
  if (source.layers.length > MAX_LAYERS) {
    throw new GodwitError(
      "invalid",
      `the image has ${source.layers.length} layers; ${MAX_LAYERS} is the most`,
    );
  }
  const config = mergeConfig(source.config, header.config);

  const layers: ImageLayer[] = [];
  let sizeBytes = 0;
  for (const layer of source.layers) {
    const inspected = await inspectLayer(layer, settings.maxImageBytes - sizeBytes, signal);
    sizeBytes += inspected.sizeBytes;
    layers.push(inspected);
  }
  using pins = settings.ledger.pin(layers.map((layer) => layer.object));
  for (const [i, layer] of layers.entries()) {
    const from = source.layers[i];
    if (from === undefined)
      throw new GodwitError("internal", "a layer went missing between its check and its upload");
    await upload(settings, layer, () => compressedLayer(from), signal);
  }
  const image: Image = {
    name: header.name,
    digest: imageDigest(
      config,
      layers.map((layer) => layer.diffId),
    ),
    config,
    layers,
    sizeBytes,
    importedAtMs: settings.nowMs(),
    arch: source.arch ?? "",
  };
  signal.throwIfAborted();
  await record(image);
  settings.logger.info(
    { image: image.name, digest: image.digest, layers: layers.length, sizeBytes, pinned: pins.count },
    "image imported",
  );
  return image;
}

async function upload(
  settings: ImportSettings,
  layer: ImageLayer,
  open: () => AsyncIterable<Buffer>,
  signal: AbortSignal,
): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await settings.ledger.store(layer.object, open, signal);
      return;
    } catch (error) {
      if (
        !(error instanceof GodwitError) ||
        !error.retryable ||
        attempt === UPLOAD_ATTEMPTS ||
        signal.aborted
      )
        throw error;
      settings.logger.warn(
        { object: layer.object, attempt, reason: error.message },
        "a layer's upload failed and is begun again",
      );
    }
  }
}

function checkFormat(text: string): Format {
  if (text === "") return "auto";
  const format = FORMATS.find((known) => known === text);
  if (format === undefined)
    throw new GodwitError(
      "invalid",
      `${JSON.stringify(text)} is no image format; known are ${FORMATS.join(", ")}`,
    );
  return format;
}

async function openArchive(archive: SpoolFile, format: Format, name: string): Promise<ImageSource> {
  const index = await ArchiveIndex.read(archive);
  switch (format === "auto" ? detectFormat(index) : format) {
    case "oci":
      return openOciLayout(index, name);
    case "docker-archive":
      return openDockerArchive(index, name);
    case "tar": {
      const config = { entrypoint: [], cmd: [], env: [], workingDir: "", user: "", stopSignal: "" };
      return { config, layers: [{ where: "the archive", open: () => archive.read() }] };
    }
  }
}
