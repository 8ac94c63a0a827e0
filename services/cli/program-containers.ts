/** Flags of the verbs that are about containers. */
import type { Command } from "commander";
import { GodwitError } from "../../proto/contract/error.ts";
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import {
  MigrationMode,
  FailoverPolicy,
  MigrationPolicy,
  RestartPolicy,
} from "../../proto/gen/godwit/v1/spec.ts";
import { addAssignment } from "./assignment.ts";
import { addHealthFlags, healthOf, type HealthFlags } from "./health-flags.ts";
import type { OutputFormat } from "./output.ts";
import { addPlacementOptions, placementOf, type PlacementFlags } from "./placement-options.ts";
import { apiOption, detachOption, outputOption } from "./shared-flags.ts";
import { parseBytes, parseCount, parseCpuMillis, parseDurationMs, parseRate } from "./quantity.ts";
import { parseMode, parseFailover, parsePolicy, parseRestart } from "./shape/words.ts";

interface Assignments {
  readonly [name: string]: string;
}
interface Common {
  readonly api?: string;
  readonly output: OutputFormat;
}
interface RunFlags extends Common, HealthFlags, PlacementFlags {
  readonly node: string;
  readonly memory: number;
  readonly cpus: number;
  readonly pids: number;
  readonly disk: number;
  readonly env: Assignments;
  readonly label: Assignments;
  readonly restart: RestartPolicy;
  readonly migration: MigrationPolicy;
  readonly failover: FailoverPolicy;
  readonly checkpointEvery: number;
  readonly blackoutBudget: number;
  readonly workdir: string;
  readonly user: string;
  readonly stopGrace: number;
  readonly stopSignal: string;
  readonly detach: boolean;
  readonly cures: boolean;
  readonly dryRun: boolean;
}

const variable = (text: string, before: Assignments): Assignments => addAssignment(text, before, "variable");
const label = (text: string, before: Assignments): Assignments => addAssignment(text, before, "label");
const pids = (text: string): number => parseCount(text, "number of processes");
const NOTHING: Assignments = {};

export function addContainerVerbs(program: Command): void {
  const runVerb = addHealthFlags(program.command("run"))
    .description("start a container and wait until it runs")
    .argument("<name>")
    .argument("<image>")
    .argument("[command...]", "after --; instead of the image's own")
    .option("--node <name>", "where to place it first", "")
    .option("--memory <size>", "hard limit, such as 256m", parseBytes, 0)
    .option("--cpus <number>", "hard limit, such as 0.5", parseCpuMillis, 0)
    .option("--pids <number>", "hard limit of processes", pids, 0)
    .option("--disk <size>", "hard limit of what it writes, such as 1g", parseBytes, 0)
    .option("-e, --env <name=value>", "environment variable; may be given again", variable, NOTHING)
    .option("--label <name=value>", "may be given again", label, NOTHING)
    .option("--restart <policy>", "always, on-failure or never", parseRestart, RestartPolicy.ALWAYS)
    .option(
      "--checkpoint-every <duration>",
      "keep a checkpoint on two other nodes, taken so often, such as 1m: should its node be lost, it goes on from there",
      parseDurationMs,
      0,
    )
    .option(
      "--failover <policy>",
      "auto: started elsewhere when its node is lost; never: it waits for its node",
      parseFailover,
      FailoverPolicy.AUTO,
    )
    .option("--migration <policy>", "live, cold or never", parsePolicy, MigrationPolicy.LIVE)
    .option(
      "--blackout-budget <duration>",
      "longest pause that a move may cause, such as 300ms",
      parseDurationMs,
      0,
    )
    .option("-w, --workdir <path>", "instead of the image's own", "")
    .option("-u, --user <user[:group]>", "instead of the image's own", "")
    .option(
      "--no-cures",
      "do not set the variables that keep programs from what cannot be moved: GODEBUG=multipathtcp=0 (Go), UV_USE_IO_URING=0 (Node)",
    )
    .option("--stop-grace <duration>", "from the stop signal to SIGKILL, such as 30s", parseDurationMs, 0)
    .option("--stop-signal <signal>", "instead of the image's own, such as SIGINT", "")
    .option("--dry-run", "only say where it would go and why, and for each other node why not", false)
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, image: string, command: string[], _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<RunFlags>();
      const spec = specOf(name, image, command, flags);
      if (flags.dryRun) {
        const { planRun } = await import("./verb/placement.ts");
        await planRun(spec, flags);
      } else {
        const { run } = await import("./verb/run.ts");
        await run(spec, flags);
      }
    });
  addPlacementOptions(runVerb);
  program
    .command("ps")
    .description("list containers")
    .option("--node <name>", "only those of one node")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (_: unknown, self: Command) => {
      const { ps } = await import("./verb/inspect.ts");
      await ps(self.optsWithGlobals<Common & { node?: string }>());
    });
  program
    .command("inspect")
    .description("one container, spec and status")
    .argument("<name>")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const { inspect } = await import("./verb/inspect.ts");
      await inspect(name, self.optsWithGlobals<Common>());
    });
  program
    .command("why")
    .description("why a container is where it is, and where it can be moved or why not")
    .argument("<name>")
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const { why } = await import("./verb/why.ts");
      await why(name, self.optsWithGlobals<Common>());
    });
  program
    .command("exec")
    .description("run a command in a container; ends with its exit code")
    .passThroughOptions()
    .argument("<name>")
    .argument("<command...>", "after --")
    .option("-i, --interactive", "send standard input", false)
    .option("-t, --tty", "give it a terminal", false)
    .option("-e, --env <name=value>", "environment variable; may be given again", variable, NOTHING)
    .option("-u, --user <user[:group]>", "instead of the container's own", "")
    .option("-w, --workdir <path>", "instead of the container's own", "")
    .addOption(apiOption())
    .action(async (name: string, command: string[], _: unknown, self: Command) => {
      const { exec } = await import("./verb/exec.ts");
      // `exec NAME -- CMD`: options end at NAME already, so the dashes arrive as a word.
      await exec(name, command[0] === "--" ? command.slice(1) : command, self.optsWithGlobals());
    });
  program
    .command("logs")
    .description("what a container wrote, continuous across a move")
    .argument("<name>")
    .option("-f, --follow", "go on with what it writes", false)
    .option(
      "--tail <lines>",
      "only the last lines",
      (text: string) => parseCount(text, "number of lines"),
      -1,
    )
    .option("--timestamps", "with the time of each line", false)
    .addOption(apiOption())
    .action(async (name: string, _: unknown, self: Command) => {
      const { logs } = await import("./verb/stream.ts");
      await logs(name, self.optsWithGlobals());
    });
  for (const [action, text] of [
    ["stop", "stop containers (their stop signal, then SIGKILL) and keep them"],
    ["start", "start stopped containers"],
    ["restart", "stop containers and start them again"],
  ] as const) {
    program
      .command(action)
      .description(text)
      .argument("<names...>")
      .addOption(detachOption())
      .addOption(apiOption())
      .action(async (names: string[], _: unknown, self: Command) => {
        const { act } = await import("./verb/lifecycle.ts");
        await act(action, names, self.optsWithGlobals());
      });
  }
  program
    .command("rm")
    .description("remove containers and all they wrote")
    .argument("<names...>")
    .option("-f, --force", "also running ones", false)
    .addOption(detachOption())
    .addOption(apiOption())
    .action(async (names: string[], _: unknown, self: Command) => {
      const { remove } = await import("./verb/lifecycle.ts");
      await remove(names, self.optsWithGlobals());
    });
  program
    .command("move")
    .description("move a container to another node while it runs")
    .argument("<name>")
    .argument("[node]", "left out: the scheduler chooses", "")
    .option("--mode <mode>", "auto, cold, checkpoint, precopy or postcopy", parseMode, MigrationMode.AUTO)
    .option(
      "--bandwidth <rate>",
      "what the move may take of the link, such as 20m or 100mbit; 0: what the agents are configured with",
      parseRate,
      0,
    )
    .option(
      "--blackout-budget <duration>",
      "instead of the container's own, such as 300ms",
      parseDurationMs,
      0,
    )
    .option("--dry-run", "only say where it would go and what that would cost, or why it cannot", false)
    .option("--cancel", "undo a move that is under way: the container stays where it is", false)
    .addOption(detachOption())
    .addOption(outputOption())
    .addOption(apiOption())
    .action(async (name: string, node: string, _: unknown, self: Command) => {
      const flags = self.optsWithGlobals<
        Common & {
          mode: MigrationMode;
          blackoutBudget: number;
          bandwidth: number;
          dryRun: boolean;
          cancel: boolean;
          detach: boolean;
        }
      >();
      const { cancelMoveOf, move } = await import("./verb/move.ts");
      if (flags.cancel) {
        if (node !== "")
          throw new GodwitError("invalid", "--cancel takes no node: it is about the move under way");
        await cancelMoveOf(name, flags);
        return;
      }
      await move(name, node, {
        ...flags,
        blackoutBudgetMs: flags.blackoutBudget,
        bandwidthBytesPerSecond: flags.bandwidth,
      });
    });
}

function specOf(name: string, image: string, command: readonly string[], flags: RunFlags): ContainerSpec {
  return ContainerSpec.fromPartial({
    name,
    image,
    command: [...command],
    env: { ...flags.env },
    workingDir: flags.workdir,
    user: flags.user,
    limits: { memoryBytes: flags.memory, cpuMillis: flags.cpus, pids: flags.pids, diskBytes: flags.disk },
    restart: flags.restart,
    migration: flags.migration,
    failover: flags.failover,
    checkpointEverySeconds: Math.ceil(flags.checkpointEvery / 1000),
    blackoutBudgetMs: flags.blackoutBudget,
    labels: { ...flags.label },
    node: flags.node,
    noCures: !flags.cures,
    stopGraceSeconds: Math.ceil(flags.stopGrace / 1000),
    stopSignal: flags.stopSignal,
    ...healthOf(flags),
    ...placementOf(flags),
  });
}
