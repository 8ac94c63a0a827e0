/** Flags of the verbs about projects and the way containers are placed. */
import type { Command } from "commander";
import type { SetProjectRequest } from "../../proto/gen/godwit/v1/api.ts";
import type { OutputFormat } from "./output.ts";
import { parseBytes, parseCount, parseCpuMillis } from "./quantity.ts";
import { apiOption, outputOption } from "./shared-flags.ts";
import { parseStrategy } from "./shape/words.ts";

interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}
interface ProjectFlags extends Common {
  readonly memory?: number;
  readonly cpus?: number;
  readonly disk?: number;
  readonly containers?: number;
}

export function addPlacementVerbs(program: Command): void {
  addProjectVerbs(program.command("project").description("quotas: ls, set, rm"));
  program
    .command("placement")
    .description(
      "how containers are placed that do not say it themselves: spread or pack; without an argument, which",
    )
    .argument("[strategy]", "spread (the emptiest node) or pack (the fullest that has room)", parseStrategy)
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (strategy: ReturnType<typeof parseStrategy> | undefined, _: unknown, self: Command) => {
      const { placementDefault } = await import("./verb/placement.ts");
      await placementDefault(strategy, self.optsWithGlobals<Common>());
    });
}

function addProjectVerbs(project: Command): void {
  project
    .command("ls")
    .description("list projects, what their containers take together, and what they may take")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (_: unknown, self: Command) => {
      const { projects } = await import("./verb/placement.ts");
      await projects(self.optsWithGlobals<Common>());
    });
  project
    .command("set")
    .description(
      "limit what all containers of a project take together; what is not given stays, 0 is no limit",
    )
    .argument("<project>")
    .option("--memory <size>", "sum of their memory limits, such as 10g", parseBytes)
    .option("--cpus <number>", "sum of their cpu limits, such as 8", parseCpuMillis)
    .option("--disk <size>", "sum of their disk limits, such as 100g", parseBytes)
    .option("--containers <number>", "how many", (text: string) => parseCount(text, "number of containers"))
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<ProjectFlags>();
      const { setProject } = await import("./verb/placement.ts");
      const request: SetProjectRequest = {
        name,
        ...(flags.memory === undefined ? {} : { memoryBytes: flags.memory }),
        ...(flags.cpus === undefined ? {} : { cpuMillis: flags.cpus }),
        ...(flags.disk === undefined ? {} : { diskBytes: flags.disk }),
        ...(flags.containers === undefined ? {} : { containers: flags.containers }),
      };
      await setProject(request, flags);
    });
  project
    .command("rm")
    .description("lift a project's limits; its containers go on")
    .argument("<project>")
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const { removeProject } = await import("./verb/placement.ts");
      await removeProject(name, self.optsWithGlobals());
    });
}
