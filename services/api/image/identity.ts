/** What an image is: its process defaults and its layers, whatever archive they came in. */
import { createHash } from "node:crypto";
import type { ImageConfig } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";

/**
 * "sha256:<hex>" over the configuration and the ordered diff ids, as JSON with its keys in alphabetical order and no
 * spaces. The same content gives the same digest on every machine and in every version.
 */
export function imageDigest(config: ImageConfig, diffIds: readonly string[]): string {
  const canonical = JSON.stringify({
    config: {
      cmd: config.cmd,
      entrypoint: config.entrypoint,
      env: config.env,
      // Not where there is none: images from before there was any keep their digest.
      ...(config.stopSignal === "" ? {} : { stopSignal: config.stopSignal }),
      user: config.user,
      workingDir: config.workingDir,
    },
    diffIds,
  });
  return `sha256:${createHash("sha256").update(canonical).digest("hex")}`;
}

/** `overrides` win field by field; an empty field does not override, and variables are merged by their name. */
export function mergeConfig(base: ImageConfig, overrides: ImageConfig | undefined): ImageConfig {
  if (overrides === undefined) return base;
  for (const variable of overrides.env) {
    if (!variable.includes("="))
      throw new GodwitError(
        "invalid",
        `the variable ${JSON.stringify(variable)} is not of the form NAME=VALUE`,
      );
  }
  const names = new Set(overrides.env.map(nameOf));
  return {
    // A new entry point makes the old arguments meaningless, as it does for `docker run --entrypoint`.
    entrypoint: overrides.entrypoint.length > 0 ? overrides.entrypoint : base.entrypoint,
    cmd: overrides.cmd.length > 0 ? overrides.cmd : overrides.entrypoint.length > 0 ? [] : base.cmd,
    env: [...base.env.filter((variable) => !names.has(nameOf(variable))), ...overrides.env],
    workingDir: overrides.workingDir === "" ? base.workingDir : overrides.workingDir,
    user: overrides.user === "" ? base.user : overrides.user,
    stopSignal: overrides.stopSignal === "" ? base.stopSignal : overrides.stopSignal,
  };
}
const nameOf = (variable: string): string => variable.split("=", 1)[0] ?? "";

const IMAGE_NAME = /^[a-z0-9]([a-z0-9._/:@-]{0,253}[a-z0-9])?$/;

export function checkImageName(name: string): void {
  if (IMAGE_NAME.test(name)) return;
  throw new GodwitError(
    "invalid",
    `${JSON.stringify(name)} is no name for an image: lower-case letters, digits and . _ - / : @ between them, at most 255`,
  );
}
