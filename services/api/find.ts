/** Containers, migrations, nodes and images by the names that people give. */
import { GodwitError } from "../../proto/contract/error.ts";
import type { DeepReadonlyState } from "../../scheduler/mod.ts";
import { lookUp } from "./lookup.ts";
import type { ContainerRecord } from "./view/container.ts";
import type { ImageRecord } from "./view/image.ts";
import type { MigrationRecord } from "./view/migration.ts";
import type { NodeRecord } from "./view/node.ts";

export function findContainer(state: DeepReadonlyState, wanted: string): ContainerRecord {
  const named = Object.values(state.containers).map((record) => ({
    id: record.id,
    name: record.spec?.name ?? record.id,
    record,
  }));
  return lookUp(named, wanted, "container", "'godwit ps' lists them").record;
}

/** By id only: a container has many migrations. */
export function findMigration(state: DeepReadonlyState, wanted: string): MigrationRecord {
  const named = Object.values(state.migrations).map((record) => ({ id: record.id, name: record.id, record }));
  return lookUp(named, wanted, "migration", "'godwit migrations' lists them").record;
}

export function findNode(state: DeepReadonlyState, wanted: string): { name: string; node: NodeRecord } {
  const named = Object.entries(state.nodes).map(([name, node]) => ({ id: name, name, node }));
  return lookUp(named, wanted, "node", "'godwit node ls' lists them");
}

/** Images are named in full: a prefix of a name with a tag would be a trap. A digest or the start of one is taken. */
export function findImage(state: DeepReadonlyState, wanted: string): ImageRecord {
  const exact = Object.hasOwn(state.images, wanted) ? state.images[wanted] : undefined;
  if (exact !== undefined) return exact;
  if (/^sha256:[0-9a-f]{6,}$/.test(wanted)) {
    const named = Object.values(state.images).map((record) => ({
      id: record.digest,
      name: record.name,
      record,
    }));
    return lookUp(named, wanted, "image", "'godwit image ls' lists them").record;
  }
  throw new GodwitError(
    "not-found",
    `there is no image named '${wanted}'; 'godwit image ls' lists them, 'godwit image import NAME PATH' adds one`,
  );
}
