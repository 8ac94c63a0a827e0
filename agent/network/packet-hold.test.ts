import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { mustRun } from "../native/command.ts";
import { withinNetwork } from "../native/network-namespace.ts";
import { PacketHold } from "./packet-hold.ts";
import { ADDRESS, MAC, TestWire } from "./testing/wire.ts";

let wire: TestWire;
beforeEach(async () => {
  wire = await TestWire.make();
});
afterEach(async () => {
  await wire[Symbol.asyncDispose]();
});

const sendFromFar = (...messages: string[]): Promise<void> => wire.send(wire.far, ADDRESS, ...messages);

const openHold = async (): Promise<PacketHold> => {
  const tunnelIndex = await wire.indexOf(wire.host, "tunnel");
  return withinNetwork(wire.path(wire.host), () =>
    PacketHold.open({ tunnelIndex, address: `${ADDRESS}/12`, mac: MAC }),
  );
};

const learntBy = async (namespace: string): Promise<boolean> =>
  (await mustRun("bridge", ["-n", namespace, "fdb", "show", "dev", "tunnel"])).stdout.includes(MAC);

test("what comes while it is held is delivered afterwards, in its order, and once", async () => {
  await using inside = await wire.listen(wire.inside);
  using hold = await openHold();
  const inner = await wire.indexOf(wire.host, "inner");

  await sendFromFar("before");
  expect(await learntBy(wire.far)).toBe(false);
  hold.begin();
  await vi.waitFor(async () => expect(await learntBy(wire.far)).toBe(true));
  // The second time it is only announced.
  hold.begin();
  await sendFromFar("first", "second", "x".repeat(1_400));
  expect(inside.heard).toEqual([]);

  hold.end();
  await sendFromFar("too late for the hold");
  await wire.ip(wire.host, ["link set inner master br0"]);
  expect(hold.deliver(inner)).toBe(3);
  await sendFromFar("live");
  await vi.waitFor(() => expect(inside.heard).toEqual(["first", "second", "x".repeat(1_400), "live"]));
});

test("what this host itself sends into the tunnel is held too, and what is for others is not", async () => {
  await using inside = await wire.listen(wire.inside);
  using hold = await openHold();
  const inner = await wire.indexOf(wire.host, "inner");
  await wire.ip(wire.host, ["addr add 10.80.0.2/24 dev br0", `neigh add ${ADDRESS} lladdr ${MAC} dev br0`]);
  await wire.ip(wire.far, ["neigh add 10.80.0.2 lladdr 02:57:0a:50:00:02 dev br0"]);

  hold.begin();
  await wire.send(wire.host, ADDRESS, "from here");
  await wire.send(wire.host, "10.80.0.1", "no");

  hold.end();
  await wire.ip(wire.host, ["link set inner master br0"]);
  expect(hold.deliver(inner)).toBe(1);
  await vi.waitFor(() => expect(inside.heard).toEqual(["from here"]));
});

test("what nobody takes is gone with the hold", async () => {
  const hold = await openHold();
  hold.begin();
  await sendFromFar("lost");
  hold[Symbol.dispose]();
  await using inside = await wire.listen(wire.inside);
  await wire.ip(wire.host, ["link set inner master br0"]);
  await sendFromFar("live");
  await vi.waitFor(() => expect(inside.heard).toEqual(["live"]));
});
