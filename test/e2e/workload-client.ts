/**
 * A client of workload/network.py on another host: keeps three kinds of connections busy until its standard input
 * ends, then prints one JSON document with what was wrong.
 */
import { createSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";

const host = process.argv[2] ?? "";
/** For the last answers to come. */
const LAST_ANSWERS_MS = 1_000;
const problems: string[] = [];
const counts = { echoed: 0, poured: 0, answers: 0, slowestAnswerMs: 0, datagrams: 0, lostDatagrams: 0 };
let going = true;

/** Numbers of eight digits, one after the other. */
function numbers(first: number, count: number): Buffer {
  return Buffer.from(
    Array.from({ length: count }, (_, index) => String(first + index).padStart(8, "0")).join(""),
  );
}

async function open(port: number): Promise<Socket> {
  const socket = connect({ host, port, allowHalfOpen: true });
  socket.on("error", (error) => going && problems.push(`port ${port}: ${error.message}`));
  await once(socket, "connect");
  return socket;
}

/** Checks that what comes is the numbers in order; answers how many. */
function reader(socket: Socket, name: string, seen: (count: number) => void): void {
  let next = 0;
  let rest = Buffer.alloc(0);
  socket.on("data", (data: Buffer) => {
    rest = Buffer.concat([rest, data]);
    const count = Math.floor(rest.byteLength / 8);
    if (!rest.subarray(0, count * 8).equals(numbers(next, count))) {
      problems.push(`${name}: not what was expected after ${next}`);
      socket.destroy();
    }
    rest = rest.subarray(count * 8);
    next += count;
    seen(next);
  });
}

const echo = await open(7003);
let echoed = 0;
reader(echo, "echo", (count) => (echoed = count));
const flood = await open(7004);
// Closed in one direction for all of its life; what comes in the other must go on.
flood.end(Buffer.alloc(100_000));
reader(flood, "flood", (count) => (counts.poured = count));
process.stdout.write("ready\n");
process.stdin.resume();
process.stdin.once("end", () => (going = false));

async function short(): Promise<void> {
  while (going) {
    const beganAt = performance.now();
    const socket = connect({ host, port: 7005 });
    let answer = "";
    socket.on("data", (data) => (answer += data.toString()));
    socket.on("connect", () => socket.write(`${counts.answers}`));
    try {
      await once(socket, "close");
      if (answer !== `answer to ${counts.answers}`) problems.push(`short: '${answer}' to ${counts.answers}`);
    } catch (error) {
      problems.push(`short: ${String(error)} at ${counts.answers}`);
    }
    counts.answers += 1;
    counts.slowestAnswerMs = Math.max(counts.slowestAnswerMs, performance.now() - beganAt);
    await delay(2);
  }
}

/** A datagram every few milliseconds, each of which is to be answered. */
async function datagrams(): Promise<void> {
  const socket = createSocket("udp4");
  const answered = new Set<string>();
  socket.on("message", (data) => answered.add(data.toString()));
  socket.on("error", (error) => problems.push(`datagrams: ${error.message}`));
  socket.bind();
  await once(socket, "listening");
  let sent = 0;
  while (going) {
    socket.send(String(sent), 7006, host);
    sent += 1;
    await delay(2);
  }
  await delay(LAST_ANSWERS_MS);
  socket.close();
  counts.datagrams = sent;
  counts.lostDatagrams = sent - answered.size;
}

const shorts = short();
const numbered = datagrams();
let sent = 0;
while (going) {
  // Up to 256 KB ahead of the echo, which itself holds 64 KB back.
  if (sent - echoed < 32_768) {
    if (!echo.write(numbers(sent, 1000))) await Promise.race([once(echo, "drain"), delay(100)]);
    sent += 1000;
  }
  await delay(1);
}
echo.end();
await Promise.race([once(echo, "end"), delay(20_000)]);
if (echoed !== sent) problems.push(`echo: ${sent} numbers sent, ${echoed} came back`);
counts.echoed = echoed;
await Promise.race([Promise.all([shorts, numbered]), delay(20_000)]);
process.stdout.write(`${JSON.stringify({ problems, ...counts })}\n`);
process.exit(0);
