import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import type { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";
import { anyRules } from "../testing/arbitrary-placement.ts";
import { Drive, idOf } from "../testing/drive.ts";
import { FakeVolatile } from "../testing/fake-volatile.ts";
import { digestOf, memoryLimit, sampleSpec } from "../testing/sample.ts";
import { command } from "./command.ts";
import { planPlacements } from "./place.ts";
import { placeAtOnce } from "./place-at-once.ts";
import { PlannedUse } from "./placement.ts";
import { WaitingRoom } from "./placement/waiting-room.ts";

const LOOKS = new FakeVolatile();
const creation = (number: number, rest: Partial<ContainerSpec> = {}): Command =>
  command("containerCreated", {
    id: idOf(number),
    spec: sampleSpec(`c${number}`, { imageDigest: digestOf("a"), ...rest }),
  });
const places = (commands: readonly Command[]): Record<string, string> =>
  Object.fromEntries(
    commands.flatMap(({ command: one }) =>
      one?.$case === "allocationPlaced" ? [[one.value.containerId, one.value.node]] : [],
    ),
  );
const round = ({ atMs, cluster }: Drive): Command[] =>
  planPlacements(cluster, LOOKS, {
    planned: new PlannedUse(cluster),
    room: new WaitingRoom(),
    nowMs: atMs,
  });

test("containers that are created together are spread, and as a round would place them", () => {
  const commands = [1, 2, 3, 4].map((number) => creation(number, memoryLimit(300)));
  const drive = new Drive("n1", "n2");
  const placed = placeAtOnce(drive.cluster, LOOKS, commands);
  expect(Object.values(places(placed)).toSorted()).toEqual(["n1", "n1", "n2", "n2"]);
  for (const one of [...commands, ...placed]) drive.must(one);
  expect(round(drive)).toEqual([]);

  const other = new Drive("n1", "n2");
  for (const one of commands) other.must(one);
  expect(places(round(other))).toEqual(places(placed));
});

test("one that no node has room for is left to the round, which says why", () => {
  const drive = new Drive("n1");
  const commands = [creation(1, memoryLimit(900)), creation(2, memoryLimit(900)), creation(3)];
  const placed = placeAtOnce(drive.cluster, LOOKS, commands);
  expect(places(placed)).toEqual({ [idOf(1)]: "n1", [idOf(3)]: "n1" });
  for (const one of [...commands, ...placed]) drive.must(one);
  const [told, ...others] = round(drive);
  expect(others).toEqual([]);
  expect(told?.command).toMatchObject({ $case: "allocationObserved", value: { containerId: idOf(2) } });
});

test("nobody is placed before those that wait, unless they are placed by the same entry", () => {
  const drive = new Drive("n1", "n2");
  drive.create(1, "c1", memoryLimit(600));
  expect(placeAtOnce(drive.cluster, LOOKS, [creation(2)])).toEqual([]);
  const first = command("allocationPlaced", { containerId: idOf(1), node: "n1", epoch: 1 });
  const placed = placeAtOnce(drive.cluster, LOOKS, [first, creation(2, memoryLimit(600))]);
  expect(places(placed)).toEqual({ [idOf(2)]: "n2" });
});

test("the more important ones are placed first, and a repeated request places nothing", () => {
  const drive = new Drive("n1");
  const commands = [creation(1, memoryLimit(900)), creation(2, { ...memoryLimit(900), priority: 5 })];
  expect(places(placeAtOnce(drive.cluster, LOOKS, commands))).toEqual({ [idOf(2)]: "n1" });
  drive.run(3, "c3", "n1");
  expect(placeAtOnce(drive.cluster, LOOKS, [creation(3)])).toEqual([]);
});

test("whatever rules they have, what is planned is not refused", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ mib: fc.constantFrom(0, 200, 500, 900), rules: anyRules }), {
        minLength: 1,
        maxLength: 12,
      }),
      (specs) => {
        const drive = new Drive("n1", "n2", "n3");
        const commands = specs.map(({ mib, rules }, at) =>
          creation(at + 1, { ...memoryLimit(mib), ...rules }),
        );
        const placed = placeAtOnce(drive.cluster, LOOKS, commands);
        for (const one of [...commands, ...placed]) drive.must(one);
      },
    ),
    { numRuns: 300 },
  );
});
