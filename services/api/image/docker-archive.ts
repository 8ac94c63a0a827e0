/** What `docker save` and `podman save` write: manifest.json, a configuration and one tar for each layer. */
import { GodwitError } from "../../../proto/contract/error.ts";
import type { ArchiveIndex, ImageSource } from "./archive.ts";
import { decompress } from "./decompress.ts";
import { Shape } from "./json-shape.ts";
import { readOciConfig } from "./oci-config.ts";

/** `name` chooses when the archive holds several images. */
export async function openDockerArchive(index: ArchiveIndex, name: string): Promise<ImageSource> {
  const images = Shape.parse(await index.bytes("manifest.json"), "manifest.json").array();
  const image = choose(
    images.map((shape) => ({ shape, names: shape.field("RepoTags").optionalStrings() })),
    name,
  );
  const layers = image.field("Layers").optionalStrings();
  if (layers.length === 0) throw new GodwitError("invalid", "the image in the archive has no layers");
  const configPath = image.field("Config").string();
  const { arch, config, diffIds } = readOciConfig(
    Shape.parse(await index.bytes(configPath), configPath),
    layers.length,
  );
  return {
    config,
    arch,
    layers: layers.map((path, i) => {
      const where = `layer ${i + 1} of ${layers.length} (${path})`;
      const diffId = diffIds[i];
      return {
        where,
        open: () => decompress(index.open(path), where),
        ...(diffId === undefined ? {} : { diffId }),
      };
    }),
  };
}

export interface NamedImage<T> {
  readonly shape: T;
  readonly names: readonly string[];
}

/** The only image, or the one that goes by `name`. */
export function choose<T>(images: readonly NamedImage<T>[], name: string): T {
  const [first] = images;
  if (first === undefined) throw new GodwitError("invalid", "the archive holds no image for linux/amd64");
  if (images.length === 1) return first.shape;
  const matching = images.filter((image) =>
    image.names.some((tag) => tag === name || tag.endsWith(`/${name}`)),
  );
  const [match] = matching;
  if (match !== undefined && matching.length === 1) return match.shape;
  const names = images.map((image) => image.names.join(" ") || "(no name)").join(", ");
  throw new GodwitError(
    "invalid",
    `the archive holds ${images.length} images (${names}); import it under the name of one of them`,
  );
}
