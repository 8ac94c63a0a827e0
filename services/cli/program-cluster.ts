/** Flags of the verbs that are about the cluster, its nodes, images and migrations. */
import type { Command } from "commander";
import type { ImageConfig } from "../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { addAssignment } from "./assignment.ts";
import type { OutputFormat } from "./output.ts";
import { addMaintenanceVerbs } from "./program-maintenance.ts";
import { apiOption, outputOption } from "./shared-flags.ts";
import { parseCount, parseKey, parseSinceMs } from "./quantity.ts";

interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}

export function addClusterVerbs(program: Command): void {
  program
    .command("status")
    .description("cluster, leader, log position, versions, warnings")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (_: unknown, self: Command) => {
      const { status } = await import("./verb/inspect.ts");
      await status(self.optsWithGlobals<Common>());
    });
  addImageVerbs(program.command("image").description("images: import, ls, rm"));
  program
    .command("migrations")
    .description("running and past migrations, with phases and times")
    .argument("[id]")
    .option("--container <name>", "only those of one container")
    .option("--limit <number>", "the newest ones", (text: string) => parseCount(text, "number", 1), 100)
    .option("--cancel <id>", "undo a running one: the container stays where it is")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (id: string | undefined, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<Common & { container?: string; limit: number; cancel?: string }>();
      if (flags.cancel === undefined) {
        const { migrations } = await import("./verb/inspect.ts");
        await migrations(id, flags);
      } else {
        if (id !== undefined) throw new GodwitError("invalid", "--cancel takes the id; give no other");
        const { cancel } = await import("./verb/move.ts");
        await cancel(flags.cancel, flags);
      }
    });
  const node = program
    .command("node")
    .description("nodes: ls, label, cordon, uncordon, drain, evacuate, return, trust, rm");
  addNodeVerbs(node);
  addMaintenanceVerbs(program, node);
  program
    .command("events")
    .description("what happened")
    .option("-f, --follow", "go on with what happens", false)
    .option(
      "--since <time>",
      "a time, or how long ago: 10m",
      (text: string) => parseSinceMs(text, Date.now()),
      0,
    )
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (_: unknown, self: Command) => {
      const flags = self.optsWithGlobals<Common & { follow: boolean; since: number }>();
      const { events } = await import("./verb/stream.ts");
      await events({ ...flags, sinceMs: flags.since });
    });
  program
    .command("version")
    .description("version of this command; 'godwit status' says the cluster's")
    .addOption(outputOption())
    .action(async (_: unknown, self: Command) => {
      const { version } = await import("./verb/version.ts");
      await version(self.optsWithGlobals<Common>().output);
    });
}

interface ImportFlags extends Common {
  readonly stopSignal: string;
  readonly format: string;
  readonly entrypoint: string[];
  readonly cmd: string[];
  readonly env: { readonly [name: string]: string };
  readonly workdir: string;
  readonly user: string;
}
const more = (word: string, before: readonly string[]): string[] => [...before, word];
const NO_WORDS: string[] = [];

function addImageVerbs(image: Command): void {
  image
    .command("import")
    .description("take in a root file system tar (.gz, .zst), a docker-archive or an OCI layout")
    .argument("<name>")
    .argument("<path>", "a file, the folder of an OCI layout, or - for standard input")
    .option("--format <format>", "auto, tar, docker-archive or oci", "auto")
    .option("--entrypoint <word>", "instead of the image's own; once for each word", more, NO_WORDS)
    .option("--cmd <word>", "instead of the image's own; once for each word", more, NO_WORDS)
    .option(
      "-e, --env <name=value>",
      "added to the image's own; may be given again",
      (text: string, before: { [name: string]: string }) => addAssignment(text, before, "variable"),
      {},
    )
    .option("-w, --workdir <path>", "instead of the image's own", "")
    .option("-u, --user <user[:group]>", "instead of the image's own", "")
    .option("--stop-signal <signal>", "instead of the image's own, such as SIGINT", "")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, path: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<ImportFlags>();
      const env = Object.entries(flags.env).map(([key, value]) => `${key}=${value}`);
      const config: ImageConfig = {
        entrypoint: flags.entrypoint,
        cmd: flags.cmd,
        env,
        workingDir: flags.workdir,
        user: flags.user,
        stopSignal: flags.stopSignal,
      };
      const { importImage } = await import("./verb/image.ts");
      await importImage(name, path, { ...flags, config });
    });
  image
    .command("ls")
    .description("list images")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (_: unknown, self: Command) => {
      const { images } = await import("./verb/inspect.ts");
      await images(self.optsWithGlobals<Common>());
    });
  image
    .command("rm")
    .description("remove images that no container uses")
    .argument("<names...>")
    .addOption(apiOption())
    .action(async (names: string[], _: unknown, self: Command) => {
      const { removeImages } = await import("./verb/image.ts");
      await removeImages(names, self.optsWithGlobals());
    });
}

function addNodeVerbs(node: Command): void {
  node
    .command("ls")
    .description("list nodes")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (_: unknown, self: Command) => {
      const { nodes } = await import("./verb/inspect.ts");
      await nodes(self.optsWithGlobals<Common>());
    });
  for (const [verb, text] of [
    ["cordon", "place no new containers on nodes"],
    ["uncordon", "place containers on nodes again"],
  ] as const) {
    node
      .command(verb)
      .description(text)
      .argument("<nodes...>")
      .addOption(apiOption())
      .action(async (names: string[], _: unknown, self: Command) => {
        const { setSchedulable } = await import("./verb/node.ts");
        await setSchedulable(names, verb === "uncordon", self.optsWithGlobals());
      });
  }
  node
    .command("label")
    .description("set labels (zone=a) of a node, or take them away (zone-)")
    .argument("<node>")
    .argument("<labels...>")
    .addOption(apiOption())
    .action(async (name: string, labels: string[], _: unknown, self: Command) => {
      const { labelNode } = await import("./verb/placement.ts");
      await labelNode(name, labels, self.optsWithGlobals());
    });
  node
    .command("trust")
    .description(
      "let a node in that shows another stream key than before, as after the loss of its data folder",
    )
    .argument("<node>")
    .argument("<key>", "as the log of its agent names it", parseKey)
    .addOption(apiOption())
    .action(async (name: string, key: Buffer, _: unknown, self: Command) => {
      const { trustKey } = await import("./verb/node.ts");
      await trustKey(name, key, self.optsWithGlobals());
    });
  node
    .command("rm")
    .description("forget a node that is lost for good; its containers go on or are started elsewhere")
    .argument("<node>")
    .option("--is-off", "somebody has seen that it is switched off: nothing runs there any more", false)
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const { removeNode } = await import("./verb/node.ts");
      await removeNode(name, self.optsWithGlobals());
    });
}
