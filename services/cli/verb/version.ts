/** `version`. */
import { readFile } from "node:fs/promises";
import { printJson, type OutputFormat } from "../output.ts";
import { say } from "../session.ts";

export async function version(format: OutputFormat): Promise<void> {
  const text = await readFile(new URL("../../../package.json", import.meta.url), "utf8");
  const { version: godwit } = JSON.parse(text) as { version: string };
  if (format === "json") printJson({ godwit, node: process.versions.node });
  else say(`godwit ${godwit} (node ${process.versions.node})`);
}
