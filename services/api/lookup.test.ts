import { describe, expect, test } from "vitest";
import { lookUp } from "./lookup.ts";

const items = [
  { id: "aa11", name: "web" },
  { id: "ab22", name: "web-2" },
  { id: "web-3", name: "db" },
  { id: "cc33", name: "aa" },
];
const found = (wanted: string): string => lookUp(items, wanted, "container", "list them").id;

describe("lookUp", () => {
  test.each([
    ["web", "aa11"], // an exact name, though others begin with it
    ["web-3", "web-3"], // an exact id
    ["web-2", "ab22"],
    ["ab", "ab22"], // a prefix of an id
    ["d", "web-3"], // a prefix of a name
    ["aa", "cc33"], // an exact name before the prefix of an id
  ])("%s", (wanted, id) => expect(found(wanted)).toBe(id));

  test("ambiguous, unknown and empty names", () => {
    expect(() => found("web-")).toThrow(
      "'web-' stands for more than one container: db (web-3), web-2 (ab22); give more",
    );
    expect(() => found("x")).toThrow("there is no container whose name or id begins with 'x'; list them");
    expect(() => found("")).toThrow("name is empty");
    const many = Array.from({ length: 20 }, (_, i) => ({ id: `n${i}`, name: `n${i}` }));
    expect(() => lookUp(many, "n", "node", "list them")).toThrow(/and 12 more/);
  });
});
