/**
 * What the product's code finds when it is loaded for a simulation: a kernel in memory in the place of the real one,
 * time and chance of the world, no way to the machine that it runs on, and where a bug is planted, one line of another
 * wording.
 */
import { registerHooks } from "node:module";
import type { Planted } from "./planted-bugs.ts";

const here = (name: string): string => new URL(`./replaced/${name}.ts`, import.meta.url).href;

const REPLACED: Readonly<Record<string, string>> = {
  "agent/container/runtime.ts": here("runtime"),
  "agent/container/record-store.ts": here("record-store"),
  "agent/migrate/source.ts": here("source"),
  "agent/migrate/thaw.ts": here("thaw"),
  "agent/migrate/page-service.ts": here("page-service"),
  "agent/migrate/page-following.ts": here("page-following"),
  "agent/migrate/target.ts": here("target"),
  "agent/migrate/cold-source.ts": here("cold-source"),
  "agent/migrate/cold-target.ts": here("cold-target"),
  "agent/checkpoints/restore.ts": here("restore"),
  "agent/checkpoints/take.ts": here("take"),
  "agent/checkpoint/resumption.ts": here("resumption"),
  "agent/forecast/subject-sampler.ts": here("subject-sampler"),
  "agent/obstacles/inspector.ts": here("inspector"),
  "agent/node/host-info.ts": here("host-info"),
  "agent/native/boot-clock.ts": here("boot-clock"),
  "agent/health/probe.ts": here("probe"),
  "agent/native/network-bytes.ts": here("network-bytes"),
};
const BUILTINS: Readonly<Record<string, string>> = {
  "node:timers/promises": here("timers"),
  "node:crypto": here("crypto"),
  // Follows a call through its promises, which are settled in the world's order anyway.
  "node:async_hooks": "node:async_hooks",
};

const root = new URL("../../", import.meta.url).href;
const isProduct = (url: string | undefined): boolean =>
  url !== undefined &&
  /^(agent|scheduler|proto)\//.test(url.slice(url.startsWith(root) ? root.length : url.length));

const ABSENT = "absent:";
/** A part of Node that may be named and not used: every way to the machine that this runs on. */
const absent = (name: string): string =>
  Object.keys(process.getBuiltinModule(name) ?? {})
    .filter((key) => /^[A-Za-z_$][\w$]*$/.test(key) && key !== "default")
    .map(
      (key) =>
        `const of_${key} = function () { throw new Error("a simulation has no ${name} to give (${key})"); };\nexport { of_${key} as ${key} };`,
    )
    .join("\n");

/** The file's source with the bug in it. */
export const plant = (bug: Planted, file: string, source: string): string => {
  let planted = source;
  for (const { file: of, line, instead } of bug.rewrites) {
    if (of !== file) continue;
    if (planted.split(line).length !== 2)
      throw new Error(
        `the bug "${bug.name}" is planted at a line of ${file} that is not there once: ${line}`,
      );
    planted = planted.replace(line, () => instead);
  }
  return planted;
};

/** @param bug rewrites lines of the product; each has to be there exactly once */
export const registerSimulation = (bug?: Planted): void => {
  registerHooks({
    resolve: (specifier, given, next) => {
      if (isProduct(given.parentURL) && specifier.startsWith("node:")) {
        const instead = BUILTINS[specifier];
        if (instead === undefined)
          return { url: `${ABSENT}${specifier}`, format: "module", shortCircuit: true };
        return { url: instead, shortCircuit: true };
      }
      const resolved = next(specifier, given);
      const instead = resolved.url.startsWith(root) ? REPLACED[resolved.url.slice(root.length)] : undefined;
      return instead === undefined ? resolved : { ...resolved, url: instead };
    },
    load: (url, given, next) => {
      if (url.startsWith(ABSENT))
        return { format: "module", source: absent(url.slice(ABSENT.length)), shortCircuit: true };
      const loaded = next(url, given);
      const file = url.startsWith(root) ? url.slice(root.length) : "";
      if (bug === undefined || !bug.rewrites.some((one) => one.file === file)) return loaded;
      const source = plant(bug, file, Buffer.from(loaded.source as Uint8Array).toString());
      return { ...loaded, source };
    },
  });
};
