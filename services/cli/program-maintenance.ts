/** Flags of the verbs that empty nodes and give them back what they had. */
import { Option, type Command } from "commander";
import { GodwitError } from "../../proto/contract/error.ts";
import { commandWords } from "./command-words.ts";
import type { OutputFormat } from "./output.ts";
import { parseCount, parseDurationMs } from "./quantity.ts";
import { apiOption, detachOption, outputOption } from "./shared-flags.ts";

interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}
interface MoveManyFlags extends Common {
  readonly parallel: number;
  readonly perLink: number;
  readonly dryRun: boolean;
  readonly detach: boolean;
  readonly cancel: boolean;
}
interface DrainFlags extends MoveManyFlags {
  readonly deadline: number;
  readonly force: boolean;
}

const count = (text: string): number => parseCount(text, "number of containers", 1);
const parallelOption = (): Option =>
  new Option("--parallel <number>", "containers at a time (else 2)").argParser(count).default(0);
const perLinkOption = (): Option =>
  new Option("--per-link <number>", "of those, between the node and any one other (else 2)")
    .argParser(count)
    .default(0);
const deadlineOption = (): Option =>
  new Option(
    "--deadline <duration>",
    "such as 10m: what could not be moved live by then is stopped and started elsewhere, unless its policy is never",
  )
    .argParser(parseDurationMs)
    .default(0);
const forceOption = (): Option =>
  new Option(
    "--force",
    "also containers whose migration policy is never; and in the end, what can go nowhere is stopped",
  ).default(false);

export function addMaintenanceVerbs(program: Command, node: Command): void {
  for (const [verb, text] of [
    ["drain", "cordon a node and move all its containers away"],
    ["evacuate", "as drain, and remember what was there: 'node return' brings it back"],
  ] as const)
    node
      .command(verb)
      .description(text)
      .argument("<node>")
      .addOption(deadlineOption())
      .addOption(parallelOption())
      .addOption(perLinkOption())
      .option("--dry-run", "only say what would go where, and what that is expected to cost", false)
      .addOption(forceOption())
      .option("--cancel", "end a running one; moves that are under way come to their end", false)
      .addOption(detachOption())
      .addOption(outputOption())
      .addOption(apiOption())
      .action(async (name: string, _: unknown, self: Command) => {
        const flags = self.optsWithGlobals<DrainFlags>();
        const { cancelMoves, drainOf, moveMany } = await import("./verb/drain.ts");
        if (flags.cancel) await cancelMoves(name, verb, flags);
        else await moveMany(name, drainOf(name, verb, { ...flags, deadlineMs: flags.deadline }), flags);
      });
  node
    .command("return")
    .description("uncordon a node and move back what was evacuated from it")
    .argument("<node>")
    .addOption(parallelOption())
    .addOption(perLinkOption())
    .option("--dry-run", "only say what would come back", false)
    .option("--cancel", "end a running one; moves that are under way come to their end", false)
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<MoveManyFlags>();
      const { cancelMoves, moveMany, returnOf } = await import("./verb/drain.ts");
      if (flags.cancel) await cancelMoves(name, "return", flags);
      else await moveMany(name, returnOf(name, flags), flags);
    });
  addMaintenanceRun(program.command("maintenance").description("rolling maintenance: run"));
}

interface RunFlags extends Common {
  readonly nodes: string;
  readonly command?: string;
  readonly shell: boolean;
  readonly deadline: number;
  readonly parallel: number;
  readonly perLink: number;
  readonly force: boolean;
  readonly waitReady: number;
  readonly reboots: boolean;
  readonly dryRun: boolean;
}

function addMaintenanceRun(maintenance: Command): void {
  maintenance
    .command("run")
    .description(
      "one node after the other: evacuate it, run a command here (GODWIT_NODE and {node} name the node), wait until it is ready, return what it had; stops at the first failure",
    )
    .argument("[command...]", "program and arguments, after --")
    .requiredOption("--nodes <names>", "n1,n2 or all, in this order")
    .option("--command <text>", "instead of the words after --: split into words, without a shell")
    .option("--shell", "give --command to sh instead", false)
    .addOption(deadlineOption())
    .addOption(parallelOption())
    .addOption(perLinkOption())
    .addOption(forceOption())
    .option("--wait-ready <duration>", "how long a node may take after its command", parseDurationMs, 600_000)
    .option("--reboots", "the command restarts the node: it has to go away first, and to come back", false)
    .option("--dry-run", "only show the plan of each node", false)
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (words: string[], _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<RunFlags>();
      const { runMaintenance } = await import("./verb/maintenance.ts");
      await runMaintenance({
        ...flags,
        deadlineMs: flags.deadline,
        waitReadyMs: flags.waitReady,
        argv: argvOf(words[0] === "--" ? words.slice(1) : words, flags),
      });
    });
}

function argvOf(words: readonly string[], { command, dryRun, shell }: RunFlags): readonly string[] {
  if (command === undefined) {
    if (words.length === 0 && !dryRun)
      throw new GodwitError("invalid", "no command is given: put it after --, or in --command");
    if (shell) throw new GodwitError("invalid", "--shell goes with --command");
    return words;
  }
  if (words.length > 0)
    throw new GodwitError("invalid", "give the command after -- or in --command, not both");
  return shell ? ["sh", "-c", command] : commandWords(command);
}
