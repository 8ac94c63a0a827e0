import { expect, test } from "vitest";
import { addConstraint, addMatch, addPort, parseLabelChanges, parsePriority } from "./placement-flags.ts";

test("constraints, labels and ports as people write them", () => {
  expect(addConstraint("arch!=arm64", addConstraint("zone=a=b", []))).toEqual([
    { key: "zone", value: "a=b", unequal: false },
    { key: "arch", value: "arm64", unequal: true },
  ]);
  expect(addMatch("app=web", [])).toEqual([{ key: "app", value: "web" }]);
  expect(addPort("53:5353/udp", addPort("8080:80", []))).toEqual([
    { hostPort: 8080, containerPort: 80, protocol: "tcp" },
    { hostPort: 53, containerPort: 5353, protocol: "udp" },
  ]);
  expect(parseLabelChanges(["zone=a", "disk=", "old-"])).toEqual({
    set: { zone: "a", disk: "" },
    remove: ["old"],
  });
  expect(["-3", "0", "10"].map(parsePriority)).toEqual([-3, 0, 10]);
});

test.each<[string, () => unknown]>([
  ["a constraint without a value", () => addConstraint("zone", [])],
  ["a constraint without a name", () => addConstraint("!=a", [])],
  ["a label without a value", () => addMatch("web", [])],
  ["a port alone", () => addPort("80", [])],
  ["a protocol of no kind", () => addPort("80:80/sctp", [])],
  ["a bare word for a label", () => parseLabelChanges(["zone"])],
  ["a dash alone", () => parseLabelChanges(["-"])],
  ["half a priority", () => parsePriority("0.5")],
])("%s is wrong usage", (_, parse) => {
  expect(parse).toThrow(expect.objectContaining({ code: "invalid" }));
});
