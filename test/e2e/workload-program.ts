/** The python workloads of test/e2e/workload: programs that check all the while that what they hold stays as it was. */
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

import { REDIS_IMAGE, type TestCluster } from "./cluster.ts";

export const PYTHON_IMAGE = `${dirname(REDIS_IMAGE)}/python.tar`;

const sourceOf = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`workload/${name}.py`, import.meta.url)), "utf8");
const HARNESS = sourceOf("harness");

export function kindsOf(group: string): string[] {
  return [...sourceOf(group).matchAll(/^@kind\ndef (\w+)/gm)].map((match) => match[1] ?? "");
}

/** A container's command that runs these kinds of a group, each in a process of its own. */
export function workloadCommand(group: string, kinds: readonly string[]): string[] {
  // The harness and the kinds are one program: nothing of it is in the image.
  const program = [
    "import sys, types",
    "harness = types.ModuleType('harness'); sys.modules['harness'] = harness",
    `exec(compile(${JSON.stringify(HARNESS)}, 'harness.py', 'exec'), harness.__dict__)`,
    `exec(compile(${JSON.stringify(sourceOf(group))}, '${group}.py', 'exec'))`,
    "harness.main()",
  ].join("\n");
  return ["python3", "-u", "-c", program, ...kinds];
}

/** The files of a folder in the container, by name. */
export async function readAll(
  cluster: TestCluster,
  name: string,
  folder: string,
): Promise<Record<string, string>> {
  const text = await cluster.sh(
    name,
    `cd ${folder} && for f in *; do case $f in *.new|"*") ;; *) echo "=== $f"; cat "$f"; echo;; esac; done`,
  );
  const found: Record<string, string> = {};
  for (const part of text.split(/^=== /m).slice(1)) {
    const end = part.indexOf("\n");
    found[part.slice(0, end)] = part.slice(end + 1);
  }
  return found;
}
