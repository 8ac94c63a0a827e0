/** Flags of the verbs that are about services. */
import type { Command } from "commander";
import type { OutputFormat } from "./output.ts";
import { apiOption, detachOption, outputOption } from "./shared-flags.ts";
import { parseCount, parseDurationMs } from "./quantity.ts";

interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}
interface Waiting extends Common {
  readonly detach: boolean;
  readonly timeout: number;
}

/** A roll-out of many containers may take long; nobody should wait for ever because of one that never comes. */
const TIMEOUT_MS = 30 * 60_000;
const TIMEOUT = [
  "--timeout <duration>",
  "how long to wait for it (30m)",
  parseDurationMs,
  TIMEOUT_MS,
] as const;

export function addServiceVerbs(program: Command): void {
  program
    .command("apply")
    .description("make services what a YAML file says, and wait until they are")
    .argument("<file>", "one service a document; - for standard input")
    .option("--dry-run", "only say what would change", false)
    .option(...TIMEOUT)
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (file: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<Waiting & { dryRun: boolean }>();
      const { apply } = await import("./verb/apply.ts");
      await apply(file, { ...flags, timeoutMs: flags.timeout });
    });
  program
    .command("diff")
    .description("what 'apply' would change, field by field; exit code 0: nothing, 4: something")
    .argument("<file>", "one service a document; - for standard input")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (file: string, _: unknown, self: Command) => {
      const { diff } = await import("./verb/apply.ts");
      await diff(file, self.optsWithGlobals<Common>());
    });
  const service = program.command("service").description("services: ls, inspect, scale, rollback, rm");
  service
    .command("ls")
    .description("list services")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (_: unknown, self: Command) => {
      const { list } = await import("./verb/service.ts");
      await list(self.optsWithGlobals<Common>());
    });
  service
    .command("inspect")
    .description("one service, its containers and its revisions")
    .argument("<name>")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const { inspect } = await import("./verb/service.ts");
      await inspect(name, self.optsWithGlobals<Common>());
    });
  service
    .command("scale")
    .description("keep another number of containers")
    .argument("<name>")
    .argument("<replicas>", "", (text: string) => parseCount(text, "number of containers"))
    .option(...TIMEOUT)
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, replicas: number, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<Waiting>();
      const { scale } = await import("./verb/service.ts");
      await scale(name, replicas, { ...flags, timeoutMs: flags.timeout });
    });
  service
    .command("rollback")
    .description("go back to an earlier revision")
    .argument("<name>")
    .option(
      "--to <revision>",
      "left out: the one before the present one",
      (text: string) => parseCount(text, "revision", 1),
      0,
    )
    .option(...TIMEOUT)
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<Waiting & { to: number }>();
      const { rollBack } = await import("./verb/service.ts");
      await rollBack(name, { ...flags, timeoutMs: flags.timeout });
    });
  service
    .command("rm")
    .description("stop and remove services with their containers")
    .argument("<names...>")
    .addOption(detachOption())
    .addOption(apiOption())
    .action(async (names: string[], _: unknown, self: Command) => {
      const { remove } = await import("./verb/service.ts");
      await remove(names, self.optsWithGlobals());
    });
}
