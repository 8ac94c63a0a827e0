/** The verbs and flags of the `godwit` command. Each verb's code is loaded when it is used. */
import { Command, CommanderError } from "commander";
import { EXIT, ExitWith } from "./failure.ts";
import { addBalanceVerbs } from "./program-balance.ts";
import { addContainerVerbs } from "./program-containers.ts";
import { addCheckpointVerbs } from "./program-checkpoints.ts";
import { addFailoverVerbs } from "./program-failover.ts";
import { addClusterVerbs } from "./program-cluster.ts";
import { addServiceVerbs } from "./program-services.ts";
import { addPlacementVerbs } from "./program-placement.ts";
import { apiOption } from "./shared-flags.ts";

export async function runProgram(argv: readonly string[]): Promise<void> {
  const program = new Command("godwit");
  program
    .description("Runs containers on a cluster of hosts and moves them between hosts while they run.")
    .addOption(apiOption())
    .enablePositionalOptions()
    .showSuggestionAfterError(true)
    .helpCommand(true)
    .addHelpText(
      "after",
      "\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a safety rule or a budget, 4 'diff' found changes.",
    );
  program
    .command("dev")
    .description("a whole cluster on this machine: dev up | start | down | exec NODE -- CMD…")
    .allowUnknownOption()
    .argument("[args...]");
  addContainerVerbs(program);
  addServiceVerbs(program);
  addClusterVerbs(program);
  addFailoverVerbs(program);
  addBalanceVerbs(program);
  addPlacementVerbs(program);
  addCheckpointVerbs(program);
  quieten(program);
  try {
    await program.parseAsync([...argv], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    // Help and version were printed; everything else that commander throws is wrong usage.
    if (error.exitCode === 0) return;
    if (error.code === "commander.help") throw new ExitWith(EXIT.usage);
    throw new ExitWith(EXIT.usage, `${error.message.replace(/^error: /, "")}; 'godwit --help' shows how`);
  }
}

/** commander throws instead of leaving, and says nothing itself on standard error but help. */
function quieten(command: Command): void {
  // Defaults are "nothing" or said in the text; "(default: 0)" would only puzzle.
  command.configureHelp({ optionDescription: (option) => option.description });
  command.exitOverride();
  command.configureOutput({ outputError: () => undefined });
  for (const child of command.commands) quieten(child);
}
