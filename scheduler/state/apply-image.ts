import type { ImageAdded, ImageRemoved } from "../../proto/gen/godwit/v1/log.ts";
import type { ContainerSpec, Image } from "../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { someOf } from "../model/quantity.ts";
import { checkImage } from "../model/spec-check.ts";
import { nameOf, type Cluster } from "./cluster.ts";
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
  return undefined;
};

/** As a container of the service would find it. */
const usedByService = (cluster: Cluster, name: string, image: Image): string[] => {
  const { history = [] } = cluster.state.services[name] ?? {};
  const isUsed = history.some(
    ({ template }) => template?.imageDigest === image.digest && imageOf(cluster, template) === image,
  );
  return isUsed ? [`the service ${name}`] : [];
};

export const imageRemoved = (cluster: Cluster, { name }: ImageRemoved): Outcome => {
  const image = cluster.state.images[name];
  if (image === undefined) return reject("not-found", `there is no image ${name}`);
  const users = [...(cluster.index.imageUsers.get(image.digest) ?? [])].flatMap((id) => {
    if (id.startsWith("service ")) return usedByService(cluster, id.slice("service ".length), image);
    const container = cluster.state.containers[id];
    // The same content under another name serves only the containers that were created from that name.
    return container?.spec !== undefined && imageOf(cluster, container.spec) === image
      ? [nameOf(container)]
      : [];
  });
  if (users.length > 0)
    return reject(
      "refused",
      `image ${name} is used by ${someOf(users.toSorted())}: remove what uses it first`,
    );
  delete cluster.state.images[name];
  return undefined;
};
