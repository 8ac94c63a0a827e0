/**
 * A scheduler as a process of its own, for tests that kill or pause it: `scheduler-program.ts OPTIONS`. It takes
 * questions from standard input and answers on standard output, a line of JSON each.
 */
import { createInterface } from "node:readline";
import { connect } from "@nats-io/transport-node";
import { pino } from "pino";
import { GodwitError } from "../../proto/contract/error.ts";
import { connectionOptions, startScheduler, withRequest } from "../mod.ts";
import { sampleImage, sampleSpec } from "./sample.ts";
import type { Answer, ProgramOptions, Question } from "./scheduler-process.ts";

const { id, leaderLeaseMs, replicas, snapshotEvery, urls } = JSON.parse(
  process.argv[2] ?? "",
) as ProgramOptions;
const settings = { servers: [...urls], ignoreClusterUpdates: true, ...connectionOptions };
const connection = await connect(settings);
const scheduler = await startScheduler({
  connection,
  settings,
  id,
  replicas,
  leaderLeaseMs,
  snapshotEvery,
  logger: pino({ level: process.env["GODWIT_TEST_LOG"] ?? "silent" }, pino.destination(2)),
});

const generationOf = (container: string): number =>
  scheduler.state().containers[container]?.restartGeneration ?? -1;

async function work(question: Question): Promise<Partial<Answer>> {
  switch (question.kind) {
    case "status": {
      const { epoch, leading, logSequence } = scheduler.status();
      const servers = leading ? await scheduler.servers() : [];
      const current = servers.filter((one) => one.current).length;
      return { epoch, leading, sequence: logSequence, hash: scheduler.stateHash(), servers: current };
    }
    case "confirm":
      await scheduler.confirm();
      return {};
    case "create":
      await scheduler.addImage(sampleImage());
      return { container: (await scheduler.createContainer(sampleSpec(question.name))).id };
    case "restart":
      await withRequest(question.request, () => scheduler.setDesired(question.container, "restart"));
      return { generation: generationOf(question.container) };
  }
}

const say = (answer: Answer | { ready: true }): void =>
  void process.stdout.write(`${JSON.stringify(answer)}\n`);

createInterface(process.stdin).on("line", (line) => {
  const { number, question } = JSON.parse(line) as { number: number; question: Question };
  work(question).then(
    (answer) => say({ number, ...answer }),
    (error: unknown) =>
      say({ number, code: GodwitError.from(error).code, message: GodwitError.from(error).message }),
  );
});
process.once("SIGTERM", () => {
  void (async () => {
    await scheduler[Symbol.asyncDispose]();
    await connection.close();
    process.exit(0);
  })();
});
say({ ready: true });
