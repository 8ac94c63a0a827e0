/** The image configuration that docker-archives and OCI layouts share. */
import type { ImageConfig } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { Shape } from "./json-shape.ts";

export interface OciConfig {
  readonly config: ImageConfig;
  readonly diffIds: readonly string[];
  /** Empty: it does not say. */
  readonly arch: string;
}

const DIGEST = /^sha256:[0-9a-f]{64}$/;

export function readOciConfig(json: Shape, layers: number): OciConfig {
  const architecture = json.field("architecture").optionalString();
  const os = json.field("os").optionalString();
  if ((architecture !== "" && architecture !== "amd64") || (os !== "" && os !== "linux")) {
    throw new GodwitError(
      "invalid",
      `the image is made for ${os}/${architecture}; these hosts run linux/amd64`,
    );
  }
  const diffIds = json.field("rootfs").field("diff_ids").optionalStrings();
  if (diffIds.length !== layers) {
    throw new GodwitError(
      "corrupt",
      `the image's configuration names ${diffIds.length} layers and its manifest ${layers}`,
    );
  }
  for (const id of diffIds) checkDigest(id);
  const config = json.field("config");
  if (config.absent)
    return {
      config: { entrypoint: [], cmd: [], env: [], workingDir: "", user: "", stopSignal: "" },
      diffIds,
      arch: architecture,
    };
  return {
    config: {
      entrypoint: config.field("Entrypoint").optionalStrings(),
      cmd: config.field("Cmd").optionalStrings(),
      env: config.field("Env").optionalStrings(),
      workingDir: config.field("WorkingDir").optionalString(),
      user: config.field("User").optionalString(),
      stopSignal: config.field("StopSignal").optionalString(),
    },
    diffIds,
    arch: architecture,
  };
}

export function checkDigest(digest: string): string {
  if (!DIGEST.test(digest))
    throw new GodwitError(
      "invalid",
      `${JSON.stringify(digest)} is not a digest of the form sha256:<64 hexadecimal digits>`,
    );
  return digest;
}
