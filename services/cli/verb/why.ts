/** `why`: why a container is where it is, and where it can be moved. */
import { connectApi, say } from "../session.ts";
import { printJson, table, type OutputFormat } from "../output.ts";
import { WHY_COLUMNS, whyDocument, whyLines } from "../shape/why.ts";

export async function why(
  nameOrId: string,
  options: { readonly api?: string; readonly output: OutputFormat },
): Promise<void> {
  using api = await connectApi(options.api);
  const report = await api.call("why", { nameOrId });
  if (options.output === "json") {
    printJson(whyDocument(report));
    return;
  }
  for (const line of whyLines(report, Date.now())) say(line);
  if (report.nodes.length > 0) process.stdout.write(await table(report.nodes, WHY_COLUMNS, true));
  else say("There is no other node.");
}
