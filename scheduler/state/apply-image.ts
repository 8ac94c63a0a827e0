import type { ImageAdded, ImageRemoved } from "../../proto/gen/godwit/v1/log.ts";
import type { ContainerSpec, Image } from "../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { someOf } from "../model/quantity.ts";
import { checkImage } from "../model/spec-check.ts";
import { nameOf, type Cluster } from "./cluster.ts";
import { touchContainer } from "./touched.ts";
import { reject, type Outcome } from "./rejection.ts";

/** The image that a container was created from, even if its name stands for another one by now. */
export const imageOf = (cluster: Cluster, spec: ContainerSpec): Image | undefined => {
  const named = cluster.state.images[spec.image];
  return named?.digest === spec.imageDigest ? named : cluster.state.images[spec.imageDigest];
};

/** An image whose name was taken over is kept under its digest for as long as a container needs it. */
const keepReplaced = (cluster: Cluster, replaced: Image): void => {
  if (!cluster.index.imageUsers.has(replaced.digest)) return;
  cluster.state.images[replaced.digest] = { ...replaced, name: replaced.digest };
};

export const dropUnusedReplaced = (cluster: Cluster, digest: string): void => {
  if (!cluster.index.imageUsers.has(digest)) delete cluster.state.images[digest];
};

export const imageAdded = (cluster: Cluster, { image }: ImageAdded): Outcome => {
  if (image === undefined) return reject("invalid", "no image given");
  try {
    checkImage(image);
  } catch (error) {
    const { code, message } = GodwitError.from(error);
    return reject(code, message);
  }
  const known = cluster.state.images[image.name];
  if (known !== undefined && known.digest !== image.digest) keepReplaced(cluster, known);
  cluster.state.images[image.name] = image;
  if (known?.digest === image.digest && JSON.stringify(known.layers) !== JSON.stringify(image.layers))
    touchUsers(cluster, image.digest);
  return undefined;
};

/** It is the same, and is to be found elsewhere. */
const touchUsers = (cluster: Cluster, digest: string): void => {
  if (!cluster.index.imageUsers.has(digest)) return;
  for (const container of Object.values(cluster.state.containers))
    if (container.spec?.imageDigest === digest) touchContainer(cluster, container);
};

/** The same content under another name serves only those that were created from that name. */
const usersOf = (cluster: Cluster, image: Image): string[] => {
  if (!cluster.index.imageUsers.has(image.digest)) return [];
  const { containers, services } = cluster.state;
  const uses = (spec: ContainerSpec | undefined): boolean =>
    spec?.imageDigest === image.digest && imageOf(cluster, spec) === image;
  const names: string[] = [];
  for (const name in services)
    if (services[name]?.history.some(({ template }) => uses(template)) === true)
      names.push(`the service ${name}`);
  if (![...cluster.index.templates.specs()].some(uses)) return names;
  for (const container of Object.values(containers)) if (uses(container.spec)) names.push(nameOf(container));
  return names;
};

export const imageRemoved = (cluster: Cluster, { name }: ImageRemoved): Outcome => {
  const image = cluster.state.images[name];
  if (image === undefined) return reject("not-found", `there is no image ${name}`);
  const users = usersOf(cluster, image);
  if (users.length > 0)
    return reject(
      "refused",
      `image ${name} is used by ${someOf(users.toSorted())}: remove what uses it first`,
    );
  delete cluster.state.images[name];
  return undefined;
};
