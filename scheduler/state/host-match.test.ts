import { describe, expect, test } from "vitest";
import { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { hostDifferences, missingFeatures } from "./host-match.ts";

const info = (name: string, rest: Partial<NodeInfo> = {}): NodeInfo =>
  NodeInfo.fromPartial({
    name,
    arch: "x64",
    kernel: "6.1.0",
    criuVersion: "4.2.1",
    cpuFlags: ["fpu", "sse2", "avx2"],
    ...rest,
  });

describe("what differs between two hosts", () => {
  test.each<[string, Partial<NodeInfo>, Partial<NodeInfo>, RegExp | undefined]>([
    ["nothing", {}, {}, undefined],
    ["a newer CPU", {}, { cpuFlags: ["fpu", "sse2", "avx2", "avx512f"] }, undefined],
    ["an older CPU", {}, { cpuFlags: ["fpu", "sse2"] }, /CPU of node n2 lacks avx2,.*runs on n1/],
    [
      "many flags",
      { cpuFlags: ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "amx_tile", "sha_ni"] },
      { cpuFlags: [] },
      /lacks avx512f, avx512bw, avx512cd, avx512dq, avx512vl and 2 more,/,
    ],
    [
      "what only the kernel makes of a CPU",
      { cpuFlags: ["sse2", "constant_tsc", "pti", "hypervisor", "vmx"] },
      { cpuFlags: ["sse2"] },
      undefined,
    ],
    ["architectures", {}, { arch: "arm64", cpuFlags: [] }, /another architecture \(arm64, n1 has x64\)/],
    ["CRIU", {}, { criuVersion: "3.17.1" }, /n2 has CRIU 3.17.1 and n1 has 4.2.1: install the same/],
    ["a kernel that CRIU cannot use", {}, { checkpointFault: "kcmp is not supported" }, /n2 .*kcmp is not/],
    ["the same on its own node", { checkpointFault: "no /proc/self/map_files" }, {}, /n1 .*map_files/],
  ])("%s", (_, from, to, expected) => {
    const reasons = hostDifferences(info("n1", from), info("n2", to));
    if (expected === undefined) expect(reasons).toEqual([]);
    else {
      expect(reasons).toHaveLength(1);
      expect(reasons[0]).toMatch(expected);
    }
  });

  test("what a container needs of the kernel", () => {
    expect(missingFeatures(["ipv6"], info("n2", { features: ["ipv6"] }))).toEqual([]);
    expect(missingFeatures(["ipv6"], info("n2"))[0]).toMatch(/n2 has no IPv6/);
    expect(missingFeatures(["other"], info("n2"))[0]).toMatch(/lacks other/);
  });
});
