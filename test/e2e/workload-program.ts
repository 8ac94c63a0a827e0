/** The python workloads of test/e2e/workload: programs that check all the while that what they hold stays as it was. */
import { readdirSync, readFileSync } from "node:fs";
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

/** What a workload has written into a folder, by name; read on its host, so that a look costs it nothing. */
export function writtenBy(
  cluster: TestCluster,
  { node, id }: { readonly node: string; readonly id: string },
  folder: "ready" | "count" | "result",
): Record<string, string> {
  const path = `${cluster.dev.node(node).dataDir}/containers/${id}/upper/${folder}`;
  const found: Record<string, string> = {};
  try {
    // What is half written is called NAME.new.
    for (const name of readdirSync(path))
      if (!name.endsWith(".new")) found[name] = readFileSync(`${path}/${name}`, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // not made yet
  }
  return found;
}
