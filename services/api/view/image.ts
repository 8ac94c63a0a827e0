/** What a person is told about an image. Pure. */
import type { ImageInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { DeepReadonlyState } from "../../../scheduler/mod.ts";

export type ImageRecord = DeepReadonlyState["images"][string];

export function imageInfo(state: DeepReadonlyState, image: ImageRecord): ImageInfo {
  return {
    name: image.name,
    digest: image.digest,
    sizeBytes: image.sizeBytes,
    layers: image.layers.length,
    importedAtMs: image.importedAtMs,
    usedBy: Object.values(state.containers).filter(
      (container) => container.spec?.imageDigest === image.digest,
    ).length,
  };
}

/** Store objects of all layers that some image holds. */
export function referencedLayers(state: DeepReadonlyState): Set<string> {
  return new Set(Object.values(state.images).flatMap((image) => image.layers.map((layer) => layer.object)));
}
