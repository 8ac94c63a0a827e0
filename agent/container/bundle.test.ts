import { describe, expect, test } from "vitest";

import { ContainerSpec, ImageConfig } from "../../proto/gen/godwit/v1/spec.ts";
import { commandOf, environmentOf, stopSignalOf } from "./bundle.ts";

const image = ImageConfig.fromPartial({ entrypoint: ["/entry"], cmd: ["serve"], env: ["A=1", "B=2"] });

describe("commandOf", () => {
  test.each<[string[], string[]]>([
    [[], ["/entry", "serve"]],
    [
      ["sh", "-c", "true"],
      ["sh", "-c", "true"],
    ],
  ])("%j", (command, expected) => {
    expect(commandOf(ContainerSpec.fromPartial({ command }), image)).toEqual(expected);
  });
});

test.each([
  ["", "", 15],
  ["", "SIGQUIT", 3],
  ["INT", "SIGQUIT", 2],
])("the spec's stop signal %j and the image's %j: %i", (own, images, number) => {
  const config = ImageConfig.fromPartial({ stopSignal: images });
  expect(stopSignalOf(ContainerSpec.fromPartial({ stopSignal: own }), config)).toBe(number);
});

describe("environmentOf", () => {
  test("the spec's variables win over the image's, the image's over the defaults", () => {
    const spec = ContainerSpec.fromPartial({ name: "web", env: { B: "3", GODEBUG: "" } });
    const environment = environmentOf(spec, image);
    expect(environment).toContain("A=1");
    expect(environment).toContain("B=3");
    expect(environment).toContain("HOSTNAME=web");
    expect(environment).toContain("GODEBUG=");
    expect(environment.filter((entry) => entry.startsWith("PATH="))).toHaveLength(1);
  });

  test.each([
    [{}, ["GODEBUG=multipathtcp=0", "UV_USE_IO_URING=0"]],
    [{ env: { GODEBUG: "gctrace=1" } }, ["GODEBUG=gctrace=1,multipathtcp=0"]],
    [{ env: { GODEBUG: "multipathtcp=1" } }, ["GODEBUG=multipathtcp=1"]],
    [{ env: { UV_USE_IO_URING: "1" } }, ["UV_USE_IO_URING=1"]],
  ])("%j is started with %j", (spec, expected) => {
    expect(environmentOf(ContainerSpec.fromPartial(spec), image)).toEqual(expect.arrayContaining(expected));
  });

  test("without cures nothing is added", () => {
    const environment = environmentOf(ContainerSpec.fromPartial({ noCures: true }), image);
    expect(environment.filter((entry) => /^(GODEBUG|UV_USE_IO_URING)=/.test(entry))).toEqual([]);
  });
});
