/** Flags of the verbs that are about checkpoints. */
import type { Command } from "commander";
import type { OutputFormat } from "./output.ts";
import { apiOption, detachOption, outputOption } from "./shared-flags.ts";

interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}

export function addCheckpointVerbs(program: Command): void {
  const checkpoint = program
    .command("checkpoint")
    .description("what containers were at one moment, kept on other nodes: create, ls, restore, rm");
  checkpoint
    .command("create")
    .description("take one of a running container, which goes on")
    .argument("<name>")
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const { createCheckpoint } = await import("./verb/checkpoint.ts");
      await createCheckpoint(name, self.optsWithGlobals<Common & { detach: boolean }>());
    });
  checkpoint
    .command("ls")
    .description("list them")
    .argument("[name]", "only those of one container")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string | undefined, _: unknown, self: Command) => {
      const { listCheckpoints } = await import("./verb/checkpoint.ts");
      await listCheckpoints(name, self.optsWithGlobals<Common>());
    });
  checkpoint
    .command("restore")
    .description("let its stopped container go on from one: memory and files of then, TCP connections closed")
    .argument("<id>")
    .option("--node <name>", "one of those that keep it", "")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (id: string, _: unknown, self: Command) => {
      const { restoreCheckpoint } = await import("./verb/checkpoint.ts");
      await restoreCheckpoint(id, self.optsWithGlobals<Common & { node: string }>());
    });
  checkpoint
    .command("rm")
    .description("remove some")
    .argument("<ids...>")
    .addOption(apiOption())
    .action(async (ids: string[], _: unknown, self: Command) => {
      const { removeCheckpoints } = await import("./verb/checkpoint.ts");
      await removeCheckpoints(ids, self.optsWithGlobals());
    });
}
