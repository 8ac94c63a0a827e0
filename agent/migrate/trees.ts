import { DEV_MOUNTS, devMountFolder } from "../container/dev-mounts.ts";
import type { ContainerPaths } from "../container/paths.ts";
import type { Tree } from "./tree-copy.ts";

/** All the trees of files that go with a container. */
export function treesOf(paths: ContainerPaths): Tree[] {
  const mounts = DEV_MOUNTS.map(({ name, destination }) => ({
    name,
    folder: devMountFolder(paths, name),
    place: destination.slice(1),
  }));
  return [{ name: "", folder: paths.upper, place: "" }, ...mounts];
}
