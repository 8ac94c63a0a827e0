/** Exec and logs over the API; what an agent would say is scripted. */
import { randomBytes } from "node:crypto";
import { status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { execSubject, logsSubject } from "../../../proto/contract/subjects.ts";
import {
  ExecFrame,
  ExecOpen,
  ExecOpened,
  LogChunk,
  LogsOpen,
  LogsOpened,
} from "../../../proto/gen/godwit/v1/agent.ts";
import type { ExecRequest, ExecResponse, LogsResponse } from "../../../proto/gen/godwit/v1/api.ts";
import { MigrationMode } from "../../../proto/gen/godwit/v1/spec.ts";
import { NatsServer } from "../../../scheduler/testing/nats-server.ts";
import { SimulatedAgent } from "../../../scheduler/testing/simulated-agent.ts";
import { tarOf } from "../image/testing/archives.ts";
import { ApiCluster, ask, messages } from "../testing/api-cluster.ts";

let cluster: ApiCluster;
beforeAll(async () => {
  cluster = await ApiCluster.start(
    () => NatsServer.start(),
    (url, name) => SimulatedAgent.start(url, name),
  );
  await cluster.importTar("base", await tarOf([{ name: "bin/app", content: "app" }]));
});
afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
});

/** An agent's exec service: `script` is called with each frame of the cluster.client. */
function serveExec(
  node: string,
  script: (
    frame: ExecFrame["frame"],
    send: (frame: NonNullable<ExecFrame["frame"]>) => void,
    open: ExecOpen,
  ) => void,
): Disposable {
  const opens = cluster.connection.subscribe(execSubject(node), {
    callback: (_, message) => {
      const open = ExecOpen.decode(message.data);
      const inputSubject = `test.input.${randomBytes(6).toString("hex")}`;
      let sequence = 0;
      const send = (frame: NonNullable<ExecFrame["frame"]>): void =>
        cluster.connection.publish(
          open.outputSubject,
          ExecFrame.encode({ sequence: (sequence += 1), frame }).finish(),
        );
      inputs.push(
        cluster.connection.subscribe(inputSubject, {
          callback: (__, input) => script(ExecFrame.decode(input.data).frame, send, open),
        }),
      );
      message.respond(ExecOpened.encode({ inputSubject, error: "" }).finish());
      script(undefined, send, open);
    },
  });
  const inputs = [opens];
  return { [Symbol.dispose]: () => inputs.forEach((input) => input.unsubscribe()) };
}

function exec(
  nameOrId: string,
  command: string[],
  requests: ExecRequest["part"][] = [],
): AsyncGenerator<ExecResponse> {
  const call = cluster.client.exec();
  call.write({
    part: {
      $case: "start",
      value: {
        nameOrId,
        command,
        tty: false,
        stdin: true,
        env: {},
        user: "",
        workingDir: "",
        rows: 0,
        columns: 0,
      },
    },
  });
  for (const part of requests) call.write({ part });
  return messages(call);
}

describe("exec", () => {
  test("input, output beyond the window, and the exit code", async () => {
    await cluster.run("shell", "n1");
    const total = 6 * 2 ** 20;
    let credit = 0;
    let sent = 0;
    let input = Buffer.alloc(0);
    using _service = serveExec("n1", (frame, send) => {
      if (frame?.$case === "credit") credit += frame.value;
      if (frame?.$case === "stdin") input = Buffer.concat([input, frame.value]);
      if (frame?.$case !== "credit" && frame?.$case !== "stdinClosed") return;
      for (; sent < total && credit >= 65_536; sent += 65_536, credit -= 65_536)
        send({ $case: "stdout", value: Buffer.alloc(65_536, sent / 65_536) });
      if (sent === total && frame.$case === "credit") send({ $case: "exit", value: { code: 42, error: "" } });
    });
    let received = 0;
    let inOrder = true;
    let exitCode = -1;
    for await (const { part } of exec(
      "shell",
      ["cat"],
      [
        { $case: "stdin", value: Buffer.from("hello") },
        { $case: "stdinClosed", value: true },
      ],
    )) {
      if (part?.$case === "stdout") {
        inOrder &&= part.value.every((byte) => byte === (received / 65_536) % 256);
        received += part.value.length;
      } else if (part?.$case === "exitCode") exitCode = part.value;
    }
    expect({ received, exitCode, input: input.toString() }).toEqual({
      received: total,
      exitCode: 42,
      input: "hello",
    });
    await cluster.remove("shell");
  });

  test("errors: no command, not running, nobody there, a program that does not exist, a client that leaves", async () => {
    await cluster.run("shell", "n1");
    await expect(Array.fromAsync(exec("shell", []))).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await expect(Array.fromAsync(exec("shell", ["ls"]))).rejects.toMatchObject({
      code: status.UNAVAILABLE,
      details: expect.stringContaining("agent of n1 is not connected"),
    });
    {
      using _service = serveExec("n1", (frame, send) => {
        if (frame === undefined) send({ $case: "exit", value: { code: 127, error: "no such program" } });
      });
      expect(await Array.fromAsync(exec("shell", ["nope"]))).toMatchObject([
        { part: { $case: "stderr" } },
        { part: { $case: "exitCode", value: 127 } },
      ]);
    }
    {
      const killed = Promise.withResolvers<void>();
      using _service = serveExec("n1", (frame, send) => {
        if (frame === undefined) send({ $case: "stdout", value: Buffer.from("tick") });
        if (frame?.$case === "kill") killed.resolve();
      });
      for await (const _ of exec("shell", ["sleep"])) break;
      await killed.promise;
    }
    await ask((done) => cluster.client.setDesired({ nameOrId: "shell", action: "stop" }, done));
    await cluster.eventually(
      "it to stop",
      () =>
        Object.values(cluster.scheduler.state().containers)[0]?.allocation?.state ===
        "ALLOCATION_STATE_EXITED",
    );
    await expect(Array.fromAsync(exec("shell", ["ls"]))).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      details: expect.stringContaining("shell is stopped"),
    });
    await cluster.remove("shell");
  });

  test("a move during the session ends it with a clear error", async () => {
    await cluster.run("shell", "n1");
    using _service = serveExec("n1", (frame, send) => {
      if (frame === undefined) send({ $case: "stdout", value: Buffer.from("begun") });
    });
    const session = exec("shell", ["sleep"])[Symbol.asyncIterator]();
    await session.next();
    await ask((done) =>
      cluster.client.move(
        {
          nameOrId: "shell",
          node: "n2",
          mode: MigrationMode.AUTO,
          blackoutBudgetMs: 0,
          bandwidthBytesPerSecond: 0,
          dryRun: false,
        },
        done,
      ),
    );
    await expect(session.next()).rejects.toMatchObject({
      code: status.UNAVAILABLE,
      details: "the container moved to n2 during the session; run the command again",
    });
    await cluster.remove("shell");
  });
});

/** Logs of one container on both nodes, as agents keep them: the same bytes wherever the container is. */
function serveLogs(
  text: () => string,
  chunkBytes: number,
  reason: (open: LogsOpen, node: string) => string | undefined,
): Disposable {
  const subscriptions = ["n1", "n2"].map((node) =>
    cluster.connection.subscribe(logsSubject(node), {
      callback: (_, message) => {
        const open = LogsOpen.decode(message.data);
        message.respond(LogsOpened.encode({ error: "", stopSubject: "" }).finish());
        const send = (chunk: Partial<LogChunk>): void =>
          cluster.connection.publish(
            open.outputSubject,
            LogChunk.encode(LogChunk.fromPartial(chunk)).finish(),
          );
        const data = Buffer.from(text());
        for (let offset = open.fromOffset; offset < data.length; offset += chunkBytes)
          send({ offset, data: data.subarray(offset, offset + chunkBytes) });
        const why = reason(open, node);
        if (why !== undefined) send({ offset: data.length, end: true, reason: why });
      },
    }),
  );
  return { [Symbol.dispose]: () => subscriptions.forEach((subscription) => subscription.unsubscribe()) };
}

const textOf = (parts: readonly LogsResponse[]): string =>
  parts.map((part) => `${part.stdout.toString()}${part.stderr.toString()}`).join("");

describe("logs", () => {
  const line = (i: number): string =>
    `${i % 3 === 0 ? "e" : "o"} 2026-01-01T00:00:0${i % 10}.000Z line ${i}\n`;

  test("are taken apart, with times on request", async () => {
    await cluster.run("writer", "n1");
    using _service = serveLogs(
      () => [1, 2, 3].map(line).join(""),
      7,
      () => "done",
    );
    const read = (timestamps: boolean): Promise<LogsResponse[]> =>
      Array.fromAsync(
        messages(
          cluster.client.logs({
            nameOrId: "writer",
            follow: false,
            tail: -1,
            timestamps,
          }),
        ),
      );
    const plain = await read(false);
    expect(textOf(plain)).toBe("line 1\nline 2\nline 3\n");
    expect(plain.map((part) => part.stderr.toString()).join("")).toBe("line 3\n");
    expect(textOf(await read(true))).toBe([1, 2, 3].map((i) => line(i).slice(2)).join(""));
    await cluster.remove("writer");
  });

  test("go on after a move, with nothing lost and nothing twice", async () => {
    await cluster.run("writer", "n1");
    let lines = 50;
    using _service = serveLogs(
      () => Array.from({ length: lines }, (_, i) => line(i)).join(""),
      333,
      (_, node) => (node === "n1" ? "moved" : "done"),
    );
    const reading = Array.fromAsync(
      messages(
        cluster.client.logs({
          nameOrId: "writer",
          follow: true,
          tail: -1,
          timestamps: false,
        }),
      ),
    );
    await ask((done) =>
      cluster.client.move(
        {
          nameOrId: "writer",
          node: "n2",
          mode: MigrationMode.AUTO,
          blackoutBudgetMs: 0,
          bandwidthBytesPerSecond: 0,
          dryRun: false,
        },
        done,
      ),
    );
    lines = 100;
    expect(textOf(await reading)).toBe(Array.from({ length: 100 }, (_, i) => `line ${i}\n`).join(""));
    await cluster.remove("writer");
  });
});
