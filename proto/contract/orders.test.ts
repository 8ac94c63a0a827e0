import { expect, test } from "vitest";
import { Desired, type DesiredAllocation } from "../gen/godwit/v1/agent.ts";
import { Orders } from "./orders.ts";

const idOf = (number: number): string => number.toString(16).padStart(16, "0");
const order = (number: number, epoch = 1): Partial<DesiredAllocation> => ({
  containerId: idOf(number),
  epoch,
});
const message = (
  leaderEpoch: number,
  revision: number,
  rest: Parameters<typeof Desired.fromPartial>[0] = {},
): Desired => Desired.fromPartial({ leaderEpoch, revision, ...rest });
const known = ({ allocations }: Orders): string =>
  [...allocations.values()]
    .map(({ containerId, epoch }) => `${Number.parseInt(containerId, 16)}:${epoch}`)
    .join();

const begun = (): Orders => {
  const orders = new Orders();
  orders.take(
    message(2, 10, { allocations: [order(1), order(2)], peers: [{ node: "n1", underlayAddress: "a" }] }),
  );
  return orders;
};

test("orders that are replayed or late change nothing, whatever they say", () => {
  const orders = begun();
  const next = message(2, 12, { base: 10, allocations: [order(1, 2)], removedAllocations: [idOf(2)] });
  expect(orders.take(next)).toEqual({ kind: "taken", changed: [idOf(1)], gone: [idOf(2)] });
  const late = [
    next,
    message(2, 10, { allocations: [order(1), order(2)] }),
    message(2, 11, { base: 10, allocations: [order(3)] }),
    message(2, 12, {}),
    // Of a leader that was deposed, however far it has counted.
    message(1, 99, {}),
    message(1, 99, { base: 12, removedAllocations: [idOf(1)] }),
  ];
  for (const one of late) {
    expect(orders.take(one)).toEqual({ kind: "older" });
    expect([known(orders), orders.leaderEpoch, orders.revision]).toEqual(["1:2", 2, 12]);
  }
});

test("what begins at orders that are not known here is not followed, and nothing is removed for it", () => {
  const orders = begun();
  const lost = message(2, 11, { base: 10, allocations: [order(3)] });
  const after = message(2, 12, { base: 11, removedAllocations: [idOf(1)] });
  expect(orders.take(after)).toEqual({ kind: "gap" });
  // Of another leader's numbers nothing is known, not even if they are lower.
  expect(orders.take(message(3, 20, { base: 9, removedAllocations: [idOf(1)] }))).toEqual({ kind: "gap" });
  expect(new Orders().take(lost)).toEqual({ kind: "gap" });
  expect([known(orders), orders.revision]).toEqual(["1:1,2:1", 10]);
  expect(orders.take(lost)).toMatchObject({ kind: "taken" });
  expect(orders.take(after)).toMatchObject({ kind: "taken", gone: [idOf(1)] });
  expect(known(orders)).toBe("2:1,3:1");
});

test("a difference to older orders than those that are known fits as well", () => {
  const orders = begun();
  orders.take(message(2, 11, { base: 10, allocations: [order(3)] }));
  orders.take(message(2, 13, { base: 10, allocations: [order(3, 2)], removedAllocations: [idOf(1)] }));
  expect(known(orders)).toBe("2:1,3:2");
});

test("full orders say what is to go by not naming it; another leader's do from its first", () => {
  const orders = begun();
  expect(orders.take(message(3, 5, { allocations: [order(2, 4)] }))).toEqual({
    kind: "taken",
    changed: [idOf(2)],
    gone: [idOf(1)],
  });
  expect([known(orders), orders.peers]).toEqual(["2:4", []]);
});

test("peers change one by one, and all at once where it is said so", () => {
  const orders = begun();
  const peers = (revision: number, list: [string, string][], allPeers = false): string => {
    const given = list.map(([node, underlayAddress]) => ({ node, underlayAddress }));
    orders.take(message(2, revision, { base: 10, peers: given, allPeers }));
    return orders.peers.map(({ node, underlayAddress }) => `${node}=${underlayAddress}`).join();
  };
  expect(peers(11, [["n2", "b"]])).toBe("n1=a,n2=b");
  expect(peers(12, [["n1", ""]])).toBe("n2=b");
  expect(peers(13, [])).toBe("n2=b");
  expect(peers(14, [["n3", "c"]], true)).toBe("n3=c");
  expect(known(orders)).toBe("1:1,2:1");
});

test("parts are followed together, in whatever order they come, and not mixed with others", () => {
  const part = (revision: number, at: number, number: number): Desired =>
    message(3, revision, { parts: 2, part: at, allocations: [order(number)] });
  const orders = begun();
  expect(orders.take(part(20, 1, 4))).toEqual({ kind: "part" });
  expect(orders.take(part(20, 1, 4))).toEqual({ kind: "part" });
  // The first part of newer ones: the older ones will never be whole.
  expect(orders.take(part(21, 0, 5))).toEqual({ kind: "part" });
  expect(orders.take(part(20, 0, 3))).toEqual({ kind: "part" });
  expect([known(orders), orders.revision]).toEqual(["1:1,2:1", 10]);
  expect(orders.take(part(21, 1, 6))).toEqual({
    kind: "taken",
    changed: [idOf(5), idOf(6)],
    gone: [idOf(1), idOf(2)],
  });
  expect(known(orders)).toBe("5:1,6:1");
  expect(orders.take(message(3, 22, { parts: 5_000, part: 4_999 }))).toEqual({ kind: "part" });
});

test("orders that an answer speaks of and that have not come are asked for, once", () => {
  const orders = new Orders();
  orders.take(message(3, 20));
  const answer = (desiredRevision: number) => ({ desired: undefined, desiredRevision });
  expect(orders.hasMissed(answer(20))).toBe(false);
  expect(orders.hasMissed({ ...answer(21), desired: message(3, 21) })).toBe(false);
  expect(orders.hasMissed(answer(21))).toBe(true);
  expect(orders.hasMissed(answer(21))).toBe(false);
  expect(orders.hasMissed(answer(22))).toBe(true);
});
