/** Three schedulers, each a process, over three nats-servers: killed, paused and cut off under a stream of commands. */
import { afterEach, beforeEach, expect, test } from "vitest";
import { GodwitError } from "../../proto/contract/error.ts";
import { LogEntry } from "../../proto/gen/godwit/v1/log.ts";
import { openLog } from "../log/open.ts";
import { eventually } from "../testing/eventually.ts";
import { NatsCluster } from "../testing/nats-cluster.ts";
import { silent } from "../testing/sample.ts";
import { SchedulerProcess, type Answer, type Question } from "../testing/scheduler-process.ts";
import { TcpGate } from "../testing/tcp-gate.ts";

const LEADER_LEASE_MS = 1_500;

class Trio implements AsyncDisposable {
  readonly nats: NatsCluster;
  readonly schedulers: SchedulerProcess[] = [];
  /** Of the first scheduler to the servers. */
  readonly gates: TcpGate[] = [];
  readonly #stack = new AsyncDisposableStack();

  private constructor(nats: NatsCluster) {
    this.nats = nats;
  }
  static async start(): Promise<Trio> {
    await using stack = new AsyncDisposableStack();
    const nats = stack.use(await NatsCluster.start());
    const trio = new Trio(nats);
    for (const url of nats.urls) trio.gates.push(stack.use(await TcpGate.start(url)));
    for (const id of ["s1", "s2", "s3"]) {
      const urls = id === "s1" ? trio.gates.map((gate) => gate.url) : nats.urls;
      const options = { id, urls, replicas: 3, leaderLeaseMs: LEADER_LEASE_MS, snapshotEvery: 100 };
      trio.schedulers.push(stack.use(await SchedulerProcess.start(options)));
    }
    trio.#stack.use(stack.move());
    return trio;
  }

  async statusOf(one: SchedulerProcess): Promise<Answer | undefined> {
    try {
      return await one.ask({ kind: "status" }, 1_000);
    } catch {
      return undefined; // it does not run, or stands still
    }
  }
  async leader(except?: SchedulerProcess): Promise<SchedulerProcess> {
    let found: SchedulerProcess | undefined;
    await eventually(
      "one that leads",
      async () => {
        for (const one of this.schedulers)
          if (one !== except && (await this.statusOf(one))?.leading === true) found = one;
        return found !== undefined;
      },
      40_000,
    );
    return found as SchedulerProcess;
  }

  /** As a client does it: again, at whoever may lead, until it is acknowledged. */
  async insist(question: Question): Promise<Answer> {
    const giveUpMs = performance.now() + 60_000;
    for (let at = 0; ; at += 1) {
      const one = this.schedulers[at % this.schedulers.length] as SchedulerProcess;
      try {
        return await one.ask(question, 2_000);
      } catch (error) {
        if (GodwitError.from(error).code !== "unavailable" || performance.now() > giveUpMs) throw error;
      }
      if (at % this.schedulers.length === 2) await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async agree(): Promise<Agreed> {
    let agreed: Agreed = { hash: "", sequence: 0 };
    await eventually(
      "all schedulers to have the same state",
      async () => {
        const all = await Promise.all(this.schedulers.map((one) => this.statusOf(one)));
        // The leader confirms itself in the log: they may be asked between two entries.
        const hashes = new Set(all.map((one) => one?.hash));
        agreed = { hash: all[0]?.hash ?? "", sequence: all[0]?.sequence ?? 0 };
        return hashes.size === 1 && agreed.hash !== "";
      },
      30_000,
    );
    return agreed;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

interface Agreed {
  readonly hash: string;
  readonly sequence: number;
}

let trio: Trio;
beforeEach(async () => {
  trio = await Trio.start();
});
afterEach(async () => {
  await trio[Symbol.asyncDispose]();
});

/** Commands one after the other, each of them counted by the state: one that is done twice or lost shows at the next. */
class Stream {
  acknowledged = 0;
  longestMs = 0;
  #stop = false;
  readonly #done: Promise<void>;

  constructor(container: string, number: number) {
    this.#done = this.#run(container, number);
    this.#done.catch(() => undefined); // told by end()
  }
  async #run(container: string, number: number): Promise<void> {
    while (!this.#stop) {
      const next = this.acknowledged + 1;
      const request = (number * 2 ** 32 + next).toString(16).padStart(16, "0");
      const beganMs = performance.now();
      const { generation } = await trio.insist({ kind: "restart", container, request });
      this.longestMs = Math.max(this.longestMs, performance.now() - beganMs);
      if (generation !== next)
        throw new Error(`after ${next} acknowledged commands the state has counted ${generation}`);
      this.acknowledged = next;
    }
  }
  goesOn(): Promise<void> {
    const from = this.acknowledged;
    return eventually("commands to be acknowledged again", () => this.acknowledged > from + 5, 40_000);
  }
  async end(): Promise<void> {
    this.#stop = true;
    await this.#done;
  }
}

const streams = async (): Promise<Stream[]> =>
  Promise.all(
    ["a", "b", "c"].map(async (name, at) => {
      const { container = "" } = await (await trio.leader()).ask({ kind: "create", name });
      return new Stream(container, at + 1);
    }),
  );

/** A replay of what the servers have, by somebody who was not there: no entry comes twice, and the state is the same. */
const replays = async ({ hash, sequence }: Agreed): Promise<boolean> => {
  await using stack = new AsyncDisposableStack();
  const connection = await trio.nats.connect();
  stack.defer(() => connection.close());
  const { events, log, replica } = await openLog(connection, {
    replicas: 3,
    writer: "replay",
    logger: silent,
    settings: trio.nats.settings,
  });
  stack.use(events);
  const [from, ids] = [replica.sequence, new Set<string>()];
  // A snapshot is made meanwhile, of a later state than they agreed upon: the log before it may be gone.
  if (from > sequence) return false;
  const { last } = await log.bounds();
  for await (const stored of log.read(from + 1, last)) {
    // The leader goes on confirming itself: the state is the same, but for the place in the log.
    if (replica.hash() === hash) break;
    ids.add(LogEntry.decode(stored.bytes).id);
    replica.apply(stored);
  }
  expect(ids.size).toBe(replica.sequence - from);
  expect(replica.hash()).toBe(hash);
  return true;
};

const expectWhole = async (all: readonly Stream[]): Promise<void> => {
  await Promise.all(all.map((one) => one.end()));
  expect(all.every(({ acknowledged }) => acknowledged > 10)).toBe(true);
  await eventually("a replay from a snapshot", async () => replays(await trio.agree()), 30_000);
};

test("a leader is killed again and again: what was acknowledged is there once and in order, and replicas agree", async () => {
  const all = await streams();
  for (let round = 0; round < 2; round += 1) {
    await all[0]?.goesOn();
    const leader = await trio.leader();
    await leader.end("SIGKILL");
    const next = await trio.leader(leader);
    expect(next.id).not.toBe(leader.id);
    await Promise.all(all.map((one) => one.goesOn()));
    await leader.launch();
  }
  await expectWhole(all);
});

test("each nats-server is killed in turn", async () => {
  const all = await streams();
  for (const server of trio.nats.servers) {
    await all[0]?.goesOn();
    await server.kill();
    await Promise.all(all.map((one) => one.goesOn()));
    await server.launch();
    await eventually(
      "the server to have all of the log again",
      async () => (await trio.statusOf(await trio.leader()))?.servers === 3,
      40_000,
    );
  }
  await expectWhole(all);
});

test("a leader that stood still changes nothing when it wakes, follows, and leads again later", async () => {
  const all = await streams();
  const leader = await trio.leader();
  await all[0]?.goesOn();
  leader.signal("SIGSTOP");
  const next = await trio.leader(leader);
  await Promise.all(all.map((one) => one.goesOn()));
  const question = leader.ask({ kind: "confirm" }).then(
    () => "led",
    (error: unknown) => GodwitError.from(error).code,
  );
  leader.signal("SIGCONT");
  expect(await question).toBe("unavailable");
  await eventually("it to follow", async () => {
    const [awake, leading] = await Promise.all([trio.statusOf(leader), trio.statusOf(next)]);
    return awake?.leading === false && awake.epoch === leading?.epoch;
  });
  for (const other of trio.schedulers) if (other !== leader) await other.end("SIGTERM");
  expect((await trio.leader()).id).toBe(leader.id);
  await Promise.all(all.map((one) => one.goesOn()));
  for (const other of trio.schedulers) if (other !== leader) await other.launch();
  await expectWhole(all);
});

test("a leader that is cut off from the log says nothing any more, and follows when it is back", async () => {
  for (const other of trio.schedulers.slice(1)) await other.end("SIGTERM");
  const [first] = trio.schedulers as [SchedulerProcess];
  expect((await trio.leader()).id).toBe("s1");
  for (const other of trio.schedulers.slice(1)) await other.launch();
  const all = await streams();
  await all[0]?.goesOn();
  for (const gate of trio.gates) gate.close(true);
  const next = await trio.leader(first);
  await Promise.all(all.map((one) => one.goesOn()));
  // It cannot know better than that it leads; what it is asked now it does not answer.
  await expect(first.ask({ kind: "confirm" }, 3_000)).rejects.toMatchObject({ code: "unavailable" });
  for (const gate of trio.gates) gate.close(false);
  await eventually(
    "it to follow",
    async () => {
      const [back, leading] = await Promise.all([trio.statusOf(first), trio.statusOf(next)]);
      return back?.leading === false && back.epoch === leading?.epoch;
    },
    30_000,
  );
  await expectWhole(all);
});
