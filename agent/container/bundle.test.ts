import { describe, expect, test } from "vitest";

import { ContainerSpec, ImageConfig } from "../../proto/gen/godwit/v1/spec.ts";
import { commandOf, environmentOf } from "./bundle.ts";

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
});
