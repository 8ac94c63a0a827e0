import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";

import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { mustRun, runCommand } from "../native/command.ts";
import { withinNetwork } from "../native/network-namespace.ts";
import { PacketHold } from "./packet-hold.ts";

/*
 * A host with a bridge and what stands for its tunnel; another host at the tunnel's far end, which is a bridge too, for
 * bridges learn; and a container's namespace, whose link is on no bridge yet.
 */
const MAC = "02:57:0a:50:00:09";
const ADDRESS = "10.80.0.9";
const id = randomBytes(3).toString("hex");
const [HOST, FAR, INSIDE] = [`gwt-${id}-host`, `gwt-${id}-far`, `gwt-${id}-in`];
const within = (path: string): string => `/run/netns/${path}`;

const ip = (namespace: string, lines: readonly string[]): Promise<unknown> =>
  mustRun("ip", ["-n", namespace, "-batch", "-"], { input: lines.join("\n") });

async function indexOf(namespace: string, name: string): Promise<number> {
  const { stdout } = await mustRun("ip", ["-n", namespace, "-j", "link", "show", "dev", name]);
  return (JSON.parse(stdout) as [{ ifindex: number }])[0].ifindex;
}

beforeEach(async () => {
  for (const namespace of [HOST, FAR, INSIDE]) await mustRun("ip", ["netns", "add", namespace]);
  await ip(HOST, [
    "link add br0 type bridge",
    "link set br0 up",
    `link add tunnel type veth peer name tunnel netns ${FAR}`,
    "link set tunnel master br0 up",
    `link add inner type veth peer name eth0 netns ${INSIDE}`,
    "link set inner up",
  ]);
  await ip(FAR, [
    "link add br0 type bridge",
    "link set br0 up",
    "link set tunnel master br0 up",
    "addr add 10.80.0.1/24 dev br0",
    `neigh add ${ADDRESS} lladdr ${MAC} dev br0`,
  ]);
  await ip(INSIDE, [
    "link set lo up",
    `link set eth0 address ${MAC}`,
    `addr add ${ADDRESS}/24 dev eth0`,
    "link set eth0 up",
  ]);
});

afterEach(async () => {
  for (const namespace of [HOST, FAR, INSIDE]) await runCommand("ip", ["netns", "del", namespace]);
});

const LISTEN = `
const socket = require("node:dgram").createSocket("udp4");
socket.on("message", (message) => console.log(String(message)));
socket.bind(5000, () => console.log("ready"));`;
const SEND = `
const socket = require("node:dgram").createSocket("udp4");
const send = (at) => at === process.argv.length ? socket.close() : socket.send(process.argv[at], 5000, "${ADDRESS}", () => send(at + 1));
send(1);`;

const sendFromFar = (...messages: string[]): Promise<unknown> =>
  mustRun("ip", ["netns", "exec", FAR, process.execPath, "-e", SEND, "--", ...messages]);

/** What the container has heard. */
async function listenInside(): Promise<{ heard: string[] } & AsyncDisposable> {
  const child = spawn("ip", ["netns", "exec", INSIDE, process.execPath, "-e", LISTEN], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const heard: string[] = [];
  const lines = createInterface(child.stdout);
  await once(lines, "line");
  lines.on("line", (line) => heard.push(line));
  return {
    heard,
    [Symbol.asyncDispose]: async () => {
      const ended = once(child, "exit");
      child.kill();
      await ended;
    },
  };
}

const openHold = async (): Promise<PacketHold> => {
  const tunnelIndex = await indexOf(HOST, "tunnel");
  return withinNetwork(within(HOST), () =>
    PacketHold.open({ tunnelIndex, address: `${ADDRESS}/12`, mac: MAC }),
  );
};

const learntBy = async (namespace: string): Promise<boolean> =>
  (await mustRun("bridge", ["-n", namespace, "fdb", "show", "dev", "tunnel"])).stdout.includes(MAC);

test("what comes while it is held is delivered afterwards, in its order, and once", async () => {
  await using inside = await listenInside();
  using hold = await openHold();
  const inner = await indexOf(HOST, "inner");

  await sendFromFar("before");
  expect(await learntBy(FAR)).toBe(false);
  hold.begin();
  await vi.waitFor(async () => expect(await learntBy(FAR)).toBe(true));
  // The second time it is only announced.
  hold.begin();
  await sendFromFar("first", "second", "x".repeat(1_400));
  expect(inside.heard).toEqual([]);

  hold.end();
  await sendFromFar("too late for the hold");
  await ip(HOST, ["link set inner master br0"]);
  expect(hold.deliver(inner)).toBe(3);
  await sendFromFar("live");
  await vi.waitFor(() => expect(inside.heard).toEqual(["first", "second", "x".repeat(1_400), "live"]));
});

test("what this host itself sends into the tunnel is held too, and what is for others is not", async () => {
  await using inside = await listenInside();
  using hold = await openHold();
  const inner = await indexOf(HOST, "inner");
  await ip(HOST, ["addr add 10.80.0.2/24 dev br0", `neigh add ${ADDRESS} lladdr ${MAC} dev br0`]);
  await ip(FAR, ["neigh add 10.80.0.2 lladdr 02:57:0a:50:00:02 dev br0"]);

  hold.begin();
  await mustRun("ip", ["netns", "exec", HOST, process.execPath, "-e", SEND, "--", "from here"]);
  await mustRun("ip", [
    "netns",
    "exec",
    HOST,
    process.execPath,
    "-e",
    SEND.replace(ADDRESS, "10.80.0.1"),
    "--",
    "no",
  ]);

  hold.end();
  await ip(HOST, ["link set inner master br0"]);
  expect(hold.deliver(inner)).toBe(1);
  await vi.waitFor(() => expect(inside.heard).toEqual(["from here"]));
});

test("what nobody takes is gone with the hold", async () => {
  const hold = await openHold();
  hold.begin();
  await sendFromFar("lost");
  hold[Symbol.dispose]();
  await using inside = await listenInside();
  await ip(HOST, ["link set inner master br0"]);
  await sendFromFar("live");
  await vi.waitFor(() => expect(inside.heard).toEqual(["live"]));
});
