import { readFileSync } from "node:fs";

import { expect, test } from "vitest";

import { MigrationPhase } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationState } from "../../proto/gen/godwit/v1/log.ts";
import { ENTRIES, FROZEN, HALTED, PHASES, POINTS, RESTORING, STATES, STATUSES } from "./points.ts";
import { rowName, ROWS } from "./rows.ts";

const NAMED = [PHASES, STATUSES, FROZEN, HALTED, RESTORING, STATES, ENTRIES].flatMap((states) =>
  Object.entries(states),
);

test.each(NAMED.filter(([, point]) => point !== undefined))(
  "the state %s is a point of the fault matrix, with rows before and after it",
  (_, point) => {
    const places = POINTS.filter(({ name }) => name === point);
    expect(places).not.toEqual([]);
    for (const when of ["before", "after"] as const)
      for (const place of places)
        expect(
          ROWS.some((row) => row.kind === "point" && row.point === place && row.when === when),
          `a row ${when} ${place.name}`,
        ).toBe(true);
  },
);

test("no state of the protocol is forgotten", () => {
  expect(Object.keys(PHASES).toSorted()).toEqual(Object.values(MigrationPhase).toSorted());
  expect(Object.keys(STATES).toSorted()).toEqual(Object.values(MigrationState).toSorted());
  const log = readFileSync(new URL("../../proto/godwit/v1/log.proto", import.meta.url), "utf8");
  const entries = [...log.matchAll(/^ {4}Migration(\w+) migration_/gm)].map(
    (match) => `migration${match[1]}`,
  );
  expect(Object.keys(ENTRIES).toSorted()).toEqual(entries.toSorted());
});

test("every row has a name of its own", () => {
  const names = ROWS.map(rowName);
  expect(new Set(names).size).toBe(names.length);
});
