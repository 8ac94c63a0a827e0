/**
 * A client of many redis servers at once: keeps one connection to each of them busy with a counter until its standard
 * input ends, then prints one JSON document with what was wrong.
 */
import { connect } from "node:net";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";

const PAUSE_MS = 50;
const LAST_ANSWER_MS = 20_000;

const problems: string[] = [];
const answers: number[] = [];
let going = true;

async function talk(host: string, at: number): Promise<void> {
  const socket = connect({ host, port: 6379 });
  socket.setNoDelay(true);
  let expected = 1;
  let text = "";
  let answered = Promise.withResolvers<void>();
  const fail = (what: string): void => {
    if (going) problems.push(`${host}: ${what} at ${expected}`);
    answered.resolve();
  };
  socket.on("error", (error) => fail(error.message));
  socket.on("close", () => fail("closed"));
  socket.on("data", (data) => {
    text += data.toString();
    if (!text.endsWith("\r\n")) return;
    if (text !== `:${expected}\r\n`) fail(`'${text.trim()}'`);
    text = "";
    expected += 1;
    answers[at] = expected - 1;
    answered.resolve();
  });
  await once(socket, "connect");
  while (going && problems.length === 0) {
    answered = Promise.withResolvers<void>();
    socket.write("INCR seen\r\n");
    const late = new AbortController();
    await Promise.race([
      answered.promise,
      delay(LAST_ANSWER_MS, undefined, { signal: late.signal }).then(() => fail("no answer")),
    ]).finally(() => late.abort());
    await delay(PAUSE_MS);
  }
  socket.removeAllListeners("close");
  socket.destroy();
}

const talks = process.argv.slice(2).map(talk);
process.stdin.resume();
process.stdin.once("end", () => (going = false));
await Promise.all(talks);
process.stdout.write(`${JSON.stringify({ problems, answers })}\n`);
process.exit(0);
