import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";

import { expect, test } from "vitest";

import {
  addressOf,
  openPacketPair,
  openStreamPair,
  receiveInto,
  receivePacket,
  sendPacket,
  shutdownSocket,
} from "./sockets.ts";

/** More than libuv's pool has threads. */
const MANY = 40;

test("files can be read while many sockets are waited for, and each gets what is its own", async () => {
  const pairs = Array.from({ length: MANY }, () => openPacketPair());
  try {
    const heard = pairs.map(([ours]) => receivePacket(ours, 8));
    await expect(readFile("/proc/self/stat", "utf8")).resolves.toContain(String(process.pid));
    for (const [index, [, theirs]] of pairs.entries())
      if (index % 2 === 0) sendPacket(theirs, Uint8Array.of(index));
    for (const [index, [ours]] of pairs.entries()) if (index % 2 === 1) shutdownSocket(ours);
    const answers = await Promise.all(heard);
    expect(answers.map((answer) => [...answer])).toEqual(
      pairs.map((_, index) => (index % 2 === 0 ? [index] : [])),
    );
  } finally {
    for (const pair of pairs) for (const descriptor of pair) closeSync(descriptor);
  }
});

test("a stream's bytes are taken as they come, and its end is told", async () => {
  const [ours, theirs] = openStreamPair(65_536);
  const buffer = Buffer.alloc(16);
  try {
    for (const text of ["first", "second"]) {
      const early = receiveInto(ours, addressOf(buffer), buffer.byteLength);
      await delay(5);
      sendPacket(theirs, Buffer.from(text));
      expect(buffer.toString("latin1", 0, await early)).toBe(text);
    }
    sendPacket(theirs, Buffer.from("there already"));
    expect(await receiveInto(ours, addressOf(buffer), 5)).toBe(5);
    expect(await receiveInto(ours, addressOf(buffer), buffer.byteLength)).toBe(8);
    const end = receiveInto(ours, addressOf(buffer), buffer.byteLength);
    shutdownSocket(theirs);
    expect(await end).toBe(0);
  } finally {
    closeSync(ours);
    closeSync(theirs);
  }
});

test("who waits for a socket that is shut down and closed at once hears of its end", async () => {
  for (let round = 0; round < 200; round += 1) {
    const [ours, theirs] = openPacketPair();
    const heard = receivePacket(ours, 8);
    if (round % 2 === 0) await delay(0);
    shutdownSocket(ours);
    if (round % 3 > 0) await Promise.resolve();
    closeSync(ours);
    closeSync(theirs);
    // Its end, or that it is closed.
    const [end] = await Promise.allSettled([heard]);
    expect(end).toSatisfy(
      ({ status, value }: { status: string; value?: Uint8Array }) =>
        status === "rejected" || value?.length === 0,
    );
  }
});

test("a descriptor that was closed without a word does not stand in the way of the next of its number", async () => {
  const first = openPacketPair();
  const forgotten = receivePacket(first[0], 8);
  for (const descriptor of first) closeSync(descriptor);
  const second = openPacketPair();
  expect(second).toEqual(first);
  const heard = receivePacket(second[0], 8);
  await expect(forgotten).rejects.toThrow("closed while it was waited for");
  sendPacket(second[1], Uint8Array.of(9));
  expect([...(await heard)]).toEqual([9]);
  for (const descriptor of second) closeSync(descriptor);
});

const PROGRAM = `
  import { receivePacket } from "${new URL("sockets.ts", import.meta.url).href}";
  const heard = receivePacket(3, 8);
  process.stdout.write("waits\\n");
  process.stdout.write((await heard).toString() + "\\n");
`;

test("who is stopped while it waits goes on to wait, and a process with nothing to wait for ends", async () => {
  const [ours, theirs] = openPacketPair();
  const child = spawn(process.execPath, ["--input-type=module", "--eval", PROGRAM], {
    stdio: ["ignore", "pipe", "inherit", theirs],
  });
  closeSync(theirs);
  const ended = once(child, "exit");
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  expect(await lines.next()).toMatchObject({ value: "waits" });
  await delay(50);
  child.kill("SIGSTOP");
  await delay(50);
  child.kill("SIGCONT");
  await delay(50);
  sendPacket(ours, Uint8Array.of(7));
  expect(await lines.next()).toMatchObject({ value: "7" });
  expect(await ended).toEqual([0, null]);
  closeSync(ours);
});
