import { createInbox, type NatsConnection, type Subscription } from "@nats-io/transport-node";

import { execSubject } from "../../../proto/contract/subjects.ts";
import { ExecFrame, ExecOpen, ExecOpened } from "../../../proto/gen/godwit/v1/agent.ts";

type TakeOutput = (bytes: Buffer) => number;
type Frame = NonNullable<ExecFrame["frame"]>;

/** The API's side of a session, as a test needs it. */
export class ExecClient implements Disposable {
  readonly exit: Promise<{ code: number; error: string }>;
  /** Called with each piece of output; what it answers is granted as credit. */
  onOutput: TakeOutput;
  stdoutBytes = 0;
  inputCreditBytes = 0;
  readonly #connection: NatsConnection;
  readonly #output: Subscription;
  readonly #pieces: { stdout: Buffer[]; stderr: Buffer[] } = { stdout: [], stderr: [] };
  readonly #resolveExit: (exit: { code: number; error: string }) => void;
  readonly #watchers = new Set<() => void>();
  #inputSubject = "";
  /** Credit for output that came before the answer that names the input's subject was read. */
  readonly #early: Frame[] = [];
  #sequence = 0;
  #received = 0;

  private constructor(connection: NatsConnection, subject: string, onOutput: TakeOutput) {
    this.onOutput = onOutput;
    this.#connection = connection;
    const exit = Promise.withResolvers<{ code: number; error: string }>();
    this.exit = exit.promise;
    this.#resolveExit = exit.resolve;
    this.#output = connection.subscribe(subject, {
      callback: (_, message) => this.#take(ExecFrame.decode(message.data)),
    });
  }

  /** Throws the agent's refusal. */
  static async open(
    connection: NatsConnection,
    node: string,
    open: Partial<ExecOpen>,
    onOutput: TakeOutput = (bytes) => bytes.length,
  ): Promise<ExecClient> {
    const outputSubject = createInbox();
    const client = new ExecClient(connection, outputSubject, onOutput);
    const request = ExecOpen.encode(ExecOpen.fromPartial({ outputSubject, ...open })).finish();
    const reply = await connection.request(execSubject(node), request, { timeout: 20_000 });
    const opened = ExecOpened.decode(reply.data);
    if (opened.error !== "") {
      client[Symbol.dispose]();
      throw new Error(opened.error);
    }
    client.#inputSubject = opened.inputSubject;
    for (const frame of client.#early.splice(0)) client.send(frame);
    return client;
  }

  get stdout(): string {
    return Buffer.concat(this.#pieces.stdout).toString();
  }

  get stderr(): string {
    return Buffer.concat(this.#pieces.stderr).toString();
  }

  send(frame: Frame, skipped = 0): void {
    if (this.#inputSubject === "") {
      this.#early.push(frame);
      return;
    }
    this.#sequence += 1 + skipped;
    this.#connection.publish(
      this.#inputSubject,
      ExecFrame.encode({ sequence: this.#sequence, frame }).finish(),
    );
  }

  type(text: string): void {
    this.send({ $case: "stdin", value: Buffer.from(text) });
  }

  /** Waits until a condition on what has arrived holds. */
  async until(what: string, condition: () => boolean, withinMs = 20_000): Promise<void> {
    if (condition()) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const look = (): void => {
      if (condition()) resolve();
    };
    const timer = setTimeout(
      () => reject(new Error(`waited for ${what}; there is: ${JSON.stringify(this.stdout.slice(-500))}`)),
      withinMs,
    );
    this.#watchers.add(look);
    await promise.finally(() => {
      clearTimeout(timer);
      this.#watchers.delete(look);
    });
  }

  [Symbol.dispose](): void {
    this.#output.unsubscribe();
  }

  #take({ sequence, frame }: ExecFrame): void {
    if (sequence === 0) return;
    this.#received += 1;
    if (sequence !== this.#received) throw new Error(`frame ${sequence} after ${this.#received - 1}`);
    if (frame?.$case === "stdout" || frame?.$case === "stderr") {
      if (frame.$case === "stdout") this.stdoutBytes += frame.value.length;
      this.#pieces[frame.$case].push(frame.value);
      const credit = this.onOutput(frame.value);
      if (credit > 0) this.send({ $case: "credit", value: credit });
    } else if (frame?.$case === "exit") this.#resolveExit(frame.value);
    else if (frame?.$case === "credit") this.inputCreditBytes += frame.value;
    for (const look of this.#watchers) look();
  }

  /** Forgets the output so far: a test of much output would hold it all. */
  forget(): void {
    this.#pieces.stdout = [];
  }
}
