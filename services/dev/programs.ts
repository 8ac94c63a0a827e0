import { statSync } from "node:fs";
import { join } from "node:path";

import { GodwitError } from "../../proto/contract/error.ts";
import { daemonEnvironment } from "./launch.ts";

/** Full path of a program: what setup.sh has installed comes before what the PATH has. */
export function findProgram(name: string, path: string = daemonEnvironment()["PATH"] ?? ""): string {
  const found = lookUp(name, path);
  if (found !== undefined) return found;
  throw new GodwitError("unavailable", `${name} is not installed; run deploy/setup.sh`);
}

/** undefined when no folder of `path` has such a program. A name with a slash stands for itself. */
export function lookUp(name: string, path: string): string | undefined {
  if (name.includes("/")) return name;
  for (const folder of path.split(":")) {
    const candidate = join(folder, name);
    const stat = folder === "" ? undefined : statSync(candidate, { throwIfNoEntry: false });
    if (stat?.isFile() === true && (stat.mode & 0o111) !== 0) return candidate;
  }
  return undefined;
}
