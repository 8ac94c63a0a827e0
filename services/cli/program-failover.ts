/** Flags of the verbs that are about lost nodes. */
import type { Command } from "commander";
import { GodwitError } from "../../proto/contract/error.ts";
import type { OutputFormat } from "./output.ts";
import { apiOption, outputOption } from "./shared-flags.ts";

const parseSwitch = (text: string): boolean => {
  if (text !== "on" && text !== "off")
    throw new GodwitError("invalid", `${JSON.stringify(text)}: say on or off`);
  return text === "on";
};

export function addFailoverVerbs(program: Command): void {
  program
    .command("failover")
    .description("whether containers of lost nodes are started elsewhere")
    .argument("[on|off]", "without it: how it is", parseSwitch)
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (enabled: boolean | undefined, _: unknown, self: Command) => {
      const { failover } = await import("./verb/failover.ts");
      await failover(enabled, self.optsWithGlobals<{ api?: string; output: OutputFormat }>());
    });
}
