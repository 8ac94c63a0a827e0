import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { macBytes } from "../model/addresses.ts";
import { withinNetwork } from "../native/network-namespace.ts";
import { PacketHold } from "./packet-hold.ts";
import { Stragglers } from "./stragglers.ts";
import { ADDRESS, MAC, TestWire } from "./testing/wire.ts";

let wire: TestWire;
let containerIndex: number;
let awayIndex: number;
beforeEach(async () => {
  wire = await TestWire.make();
  containerIndex = await wire.indexOf(wire.host, "inner");
  awayIndex = await wire.indexOf(wire.far, "inner");
});
afterEach(async () => {
  await wire[Symbol.asyncDispose]();
});

const send = (...messages: string[]): Promise<void> => wire.send(wire.far, ADDRESS, ...messages);
const linkUp = (): Promise<void> => wire.ip(wire.host, ["link set inner master br0"]);
const linkDown = (): Promise<void> => wire.ip(wire.host, ["link set inner nomaster"]);

async function openStragglers(staysHere: boolean): Promise<Stragglers> {
  const tunnelIndex = await wire.indexOf(wire.host, "tunnel");
  return withinNetwork(wire.path(wire.host), () =>
    Stragglers.open({ containerIndex, tunnelIndex, mac: MAC, staysHere }),
  );
}

/** The target is the host at the far end. */
async function openHold(): Promise<PacketHold> {
  const tunnelIndex = await wire.indexOf(wire.far, "tunnel");
  return withinNetwork(wire.path(wire.far), () =>
    PacketHold.open({ tunnelIndex, address: ADDRESS, mac: MAC }),
  );
}

test("what comes to a container that stands still, or has no link any more, goes after it", async () => {
  await using here = await wire.listen(wire.inside);
  await using away = await wire.listen(wire.away);
  using stragglers = await openStragglers(false);
  using hold = await openHold();
  await linkUp();

  await send("read");
  stragglers.standsStill();
  await send("read a moment later");
  stragglers.goesOn();
  stragglers.standsStill();
  await send("to one that stands still");
  stragglers.hearTunnel();
  await send("to one that still has its link");
  await vi.waitFor(() => expect(here.heard).toHaveLength(4));
  await linkDown();
  stragglers.hearTunnel();
  await send("to one without a link");
  expect(here.heard).toHaveLength(4);

  for (const packet of stragglers.take()) hold.take(packet);
  expect(stragglers.take()).toEqual([]);
  hold.begin();
  await send("to its new place");
  expect(hold.deliver(awayIndex)).toBe(4);
  await vi.waitFor(() =>
    expect(away.heard).toEqual([
      "to one that stands still",
      "to one that still has its link",
      "to one without a link",
      "to its new place",
    ]),
  );
});

test("what a neighbour on the target sends comes once, though both hosts hear it", async () => {
  await using away = await wire.listen(wire.away);
  using stragglers = await openStragglers(false);
  using hold = await openHold();
  await linkUp();
  stragglers.standsStill();
  stragglers.hearTunnel();
  await linkDown();
  await send("before the target knew");
  hold.begin();
  // The same twice, which both count.
  await send("a", "a", "b");
  for (const packet of stragglers.take()) hold.take(packet);
  await send("c");
  expect(hold.deliver(awayIndex)).toBe(5);
  await vi.waitFor(() => expect(away.heard).toEqual(["before the target knew", "a", "a", "b", "c"]));
});

test("what comes when the hosts have been told and the link is still there goes after it", async () => {
  await using here = await wire.listen(wire.inside);
  using stragglers = await openStragglers(false);
  using hold = await openHold();
  await linkUp();
  stragglers.standsStill();
  stragglers.hearTunnel();
  hold.begin();
  // Its bridge has learnt that the container is behind the tunnel, and sends nothing back there.
  await send("into the gap");
  expect(here.heard).toEqual([]);
  expect(stragglers.take()).toHaveLength(1);
});

test.each([true, false])(
  "a container that goes on where it stood still gets what came while it had no link, and nothing twice (%s)",
  async (isCheckpoint) => {
    await using here = await wire.listen(wire.inside);
    using stragglers = await openStragglers(isCheckpoint);
    await linkUp();
    stragglers.standsStill();
    stragglers.hearTunnel();
    await send("to one that stands still");
    await linkDown();
    await send("to one without a link", "another");
    // It was on its way to another host, and stays.
    if (!isCheckpoint) expect(stragglers.take()).toHaveLength(3);
    await linkUp();
    expect(stragglers.deliver()).toBe(2);
    await send("afterwards");
    await vi.waitFor(() =>
      expect(here.heard).toEqual([
        "to one that stands still",
        "to one without a link",
        "another",
        "afterwards",
      ]),
    );
    expect(stragglers.deliver()).toBe(0);
  },
);

test("a neighbour on the host of one that is checkpointed loses nothing either", async () => {
  await using here = await wire.listen(wire.inside);
  using stragglers = await openStragglers(true);
  await wire.ip(wire.host, ["addr add 10.80.0.2/24 dev br0", `neigh add ${ADDRESS} lladdr ${MAC} dev br0`]);
  await linkUp();
  stragglers.standsStill();
  stragglers.hearTunnel();
  await linkDown();
  await wire.send(wire.host, ADDRESS, "from next door");
  await linkUp();
  expect(stragglers.deliver()).toBe(1);
  await vi.waitFor(() => expect(here.heard).toEqual(["from next door"]));
});

test("a tunnel that was down for a moment takes nothing away", async () => {
  using stragglers = await openStragglers(true);
  stragglers.hearTunnel();
  await send("before");
  await wire.ip(wire.host, ["link set tunnel down", "link set tunnel up"]);
  await vi.waitFor(async () => {
    await send("again and again");
    expect(stragglers.take().length).toBeGreaterThan(0);
  });
});

test("what is older than a packet gets is not delivered", async () => {
  await using here = await wire.listen(wire.inside);
  using stragglers = await openStragglers(true);
  stragglers.hearTunnel();
  await send("long ago");
  await linkUp();
  vi.spyOn(performance, "now").mockReturnValue(performance.now() + 61_000);
  try {
    expect(stragglers.deliver()).toBe(0);
  } finally {
    vi.restoreAllMocks();
  }
  await send("now");
  await vi.waitFor(() => expect(here.heard).toEqual(["now"]));
});

test("what is not the container's is not taken", async () => {
  using hold = await openHold();
  const packet = (mac: Buffer, bytes: number): Buffer => Buffer.concat([Buffer.alloc(10), mac], bytes);
  hold.take(packet(macBytes(MAC), 100));
  for (const wrong of [
    packet(macBytes("02:57:0a:50:00:0a"), 100),
    packet(macBytes(MAC), 70_000),
    Buffer.alloc(4),
  ])
    expect(() => hold.take(wrong)).toThrow(expect.objectContaining({ code: "corrupt" }));
});
