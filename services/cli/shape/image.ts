/** Images as JSON and as tables. Pure. */
import type { ImageInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { Column } from "../output.ts";
import { formatAge, formatBytes } from "../quantity.ts";
import { timeOrNull } from "./words.ts";

export function imageRow(image: ImageInfo): Record<string, unknown> {
  return {
    name: image.name,
    digest: image.digest,
    sizeBytes: image.sizeBytes,
    layers: image.layers,
    usedBy: image.usedBy,
    importedAt: timeOrNull(image.importedAtMs),
  };
}

/** An image whose name was taken over is kept under its digest while a container needs it. */
const nameText = (image: ImageInfo): string => (image.name === image.digest ? "<replaced>" : image.name);

export function imageColumns(nowMs: number): Column<ImageInfo>[] {
  return [
    { title: "NAME", cell: nameText },
    { title: "DIGEST", cell: (image) => image.digest.slice(0, 19) },
    { title: "SIZE", cell: (image) => formatBytes(image.sizeBytes), right: true },
    { title: "LAYERS", cell: (image) => String(image.layers), right: true },
    { title: "USED BY", cell: (image) => String(image.usedBy), right: true },
    { title: "AGE", cell: (image) => formatAge(nowMs - image.importedAtMs), right: true },
  ];
}
