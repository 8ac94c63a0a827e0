/**
 * OCI image layouts (image-spec v1.1, image-layout.md): index.json leads to a manifest, that to a configuration and
 * layers, each a blob that is named by its digest. Every blob is checked against it.
 */
import { createHash } from "node:crypto";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { ArchiveIndex, ImageSource } from "./archive.ts";
import { decompress } from "./decompress.ts";
import { choose, type NamedImage } from "./docker-archive.ts";
import { Shape } from "./json-shape.ts";
import { checkDigest, readOciConfig } from "./oci-config.ts";

const INDEX_TYPES: ReadonlySet<string> = new Set([
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
]);
const MANIFEST_TYPES: ReadonlySet<string> = new Set([
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
]);
const LAYER_TYPE =
  /^application\/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?|docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?)$/;
/** An index may name indexes; real ones do it once. */
const MAX_DEPTH = 4;
const REF_NAME = "org.opencontainers.image.ref.name";
const FULL_NAME = "io.containerd.image.name";

export async function openOciLayout(index: ArchiveIndex, name: string): Promise<ImageSource> {
  const version = Shape.parse(await index.bytes("oci-layout"), "oci-layout")
    .field("imageLayoutVersion")
    .string();
  if (!version.startsWith("1."))
    throw new GodwitError("invalid", `the OCI layout has version ${version}; only 1.x is known`);
  const found: NamedImage<string>[] = [];
  await collect(index, Shape.parse(await index.bytes("index.json"), "index.json"), [], found, 0);
  // Tags of one image are several entries with one digest.
  const byDigest = new Map<string, NamedImage<string>>();
  for (const image of found) {
    byDigest.set(image.shape, {
      shape: image.shape,
      names: [...(byDigest.get(image.shape)?.names ?? []), ...image.names],
    });
  }
  const manifestDigest = choose([...byDigest.values()], name);
  const manifest = await readBlob(index, manifestDigest, "the image's manifest");
  const layers = manifest.field("layers").array();
  if (layers.length === 0) throw new GodwitError("invalid", "the image in the layout has no layers");
  const configDigest = manifest.field("config").field("digest").string();
  const { arch, config, diffIds } = readOciConfig(
    await readBlob(index, configDigest, "the image's configuration"),
    layers.length,
  );
  return {
    config,
    arch,
    layers: layers.map((layer, i) => {
      const type = layer.field("mediaType").string();
      if (!LAYER_TYPE.test(type))
        throw new GodwitError(
          "invalid",
          `layer ${i + 1} of ${layers.length} has the media type ${JSON.stringify(type)}, which is not supported`,
        );
      const digest = checkDigest(layer.field("digest").string());
      const where = `layer ${i + 1} of ${layers.length} (${digest.slice(0, 19)})`;
      const diffId = diffIds[i];
      return {
        where,
        verify: () => verify(index.open(blobPath(digest)), digest, where),
        open: () => decompress(index.open(blobPath(digest)), where),
        ...(diffId === undefined ? {} : { diffId }),
      };
    }),
  };
}

/** Digests of all manifests for linux/amd64 below an index, with the names they go by. */
async function collect(
  index: ArchiveIndex,
  json: Shape,
  names: readonly string[],
  found: NamedImage<string>[],
  depth: number,
): Promise<void> {
  if (depth > MAX_DEPTH)
    throw new GodwitError("invalid", "the OCI layout's indexes name each other without an end");
  for (const entry of json.field("manifests").array()) {
    const platform = entry.field("platform");
    // "unknown" is what BuildKit's attestations are filed under.
    if (
      !platform.absent &&
      (platform.field("os").optionalString() !== "linux" ||
        platform.field("architecture").optionalString() !== "amd64")
    )
      continue;
    const digest = checkDigest(entry.field("digest").string());
    const annotations = entry.field("annotations");
    const own = annotations.absent
      ? []
      : [annotations.field(REF_NAME).optionalString(), annotations.field(FULL_NAME).optionalString()].filter(
          (text) => text !== "",
        );
    const all = own.length > 0 ? own : names;
    const type = entry.field("mediaType").optionalString();
    if (INDEX_TYPES.has(type)) {
      await collect(index, await readBlob(index, digest, "an index"), all, found, depth + 1);
    } else if (type === "" || MANIFEST_TYPES.has(type)) {
      found.push({ shape: digest, names: all });
    }
  }
}

async function readBlob(index: ArchiveIndex, digest: string, what: string): Promise<Shape> {
  checkDigest(digest);
  const bytes = await index.bytes(blobPath(digest));
  if (`sha256:${createHash("sha256").update(bytes).digest("hex")}` !== digest)
    throw wrongDigest(what, digest);
  return Shape.parse(bytes, what);
}

const blobPath = (digest: string): string => `blobs/sha256/${digest.slice("sha256:".length)}`;
const wrongDigest = (what: string, digest: string): GodwitError =>
  new GodwitError(
    "corrupt",
    `${what} does not have the digest that it is named by (${digest}): the archive is damaged or was changed`,
  );

// Not done while decompressing: a decompressor may stop reading before the last byte.
async function verify(chunks: AsyncIterable<Buffer>, digest: string, what: string): Promise<void> {
  const hash = createHash("sha256");
  for await (const chunk of chunks) hash.update(chunk);
  if (`sha256:${hash.digest("hex")}` !== digest) throw wrongDigest(what, digest);
}
