import { expect, test } from "vitest";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import { BalanceWorld } from "../testing/balance-world.ts";
import { idOf } from "../testing/drive.ts";
import { BalanceOperations } from "./balance-operations.ts";
import { Reports } from "./reports.ts";
import { withRequest } from "./request.ts";

/** Two nodes of which one has much more to do, and nothing is moved before somebody asks for it. */
const uneven = (): {
  world: BalanceWorld;
  proposed: Command[];
  /** Of another leader each time. */
  operations: () => BalanceOperations;
} => {
  const world = new BalanceWorld(["n1", "n2", "n3", "n4"], {
    policy: "BALANCE_POLICY_RECOMMEND",
    smoothingMs: 1_000,
    parallel: 4,
  });
  for (let at = 0; at < 8; at += 1) world.run(`c${at}`, at < 4 ? "n1" : "n2", 900);
  world.go(10);
  const proposed: Command[] = [];
  let next = 0x5000;
  const operations = (): BalanceOperations =>
    new BalanceOperations({
      cluster: world.cluster,
      propose: (command) => {
        proposed.push(command);
        return Promise.resolve(world.drive.try(command));
      },
      nowMs: () => world.drive.atMs,
      newId: () => idOf((next += 1)),
      reports: () => {
        const reports = new Reports(15_000, world.drive.atMs);
        for (const [name, picture] of world.volatile.nodes) reports.nodes.set(name, picture);
        return Object.assign(reports, { balancer: world.balancer });
      },
    });
  return { world, proposed, operations };
};

test("moves that a request has begun are begun once, however often it is made, and the answer is the same", async () => {
  const { world, proposed, operations } = uneven();
  const ask = (request: number) => withRequest(idOf(request), () => operations().run());
  const first = await ask(0x70);
  expect(first.migrationIds.length).toBeGreaterThan(1);
  expect(first.migrationIds).toEqual(first.moves.map((_, at) => idOf(0x70 + at)));
  expect(world.migrations.map(({ id }) => id).toSorted()).toEqual([...first.migrationIds].toSorted());
  const { length } = proposed;
  const again = await ask(0x70);
  expect([again.migrationIds, again.moves]).toEqual([first.migrationIds, first.moves]);
  expect(proposed.length).toBe(length);
});

test("of a request whose answer was lost with some of its moves, those that are in the log are its answer", async () => {
  const { world, proposed, operations } = uneven();
  const [one] = (await withRequest(idOf(0x70), () => operations().run())).migrationIds;
  const others = world.migrations.length - 1;
  // A log that took only the second of them.
  const fresh = uneven();
  const second = proposed[1];
  if (second === undefined) throw new Error("one move is not enough for this test");
  fresh.world.drive.must(second);
  const again = await withRequest(idOf(0x70), () => fresh.operations().run());
  expect(others).toBeGreaterThan(0);
  expect(again.migrationIds).toEqual([idOf(0x71)]);
  expect(again.migrationIds).not.toContain(one);
  expect(fresh.world.migrations).toHaveLength(1);
});

test("without a request's id each asking is another one", async () => {
  const { world, operations } = uneven();
  const first = await operations().run();
  expect(first.migrationIds.length).toBeGreaterThan(0);
  const again = await operations().run();
  expect(again.migrationIds.some((id) => first.migrationIds.includes(id))).toBe(false);
  expect(world.migrations).toHaveLength(first.migrationIds.length + again.migrationIds.length);
});
