import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { ReportReply } from "../../proto/gen/godwit/v1/agent.ts";
import { NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import type { Host } from "../host.ts";
import type { Node } from "./node.ts";
import { Reporter } from "./reporter.ts";

const accepted = (reportEveryMs: number): ReportReply =>
  ReportReply.fromPartial({ accepted: true, leaseMs: 15_000, reportEveryMs });

/** What of a host a report is made from. */
const hostThat = (answers: () => Promise<ReportReply>): Host =>
  ({
    config: { node: "n1", dataDir: "/" },
    cgroups: { v2Root: undefined },
    connection: { request: async () => ({ data: ReportReply.encode(await answers()).finish() }) },
    images: { list: () => Promise.resolve([]) },
    fence: { armedMs: undefined, fault: "", isClosed: false, extend: () => Promise.resolve() },
    logger: { info: () => undefined, warn: () => undefined },
  }) as unknown as Host;

const node = {
  sights: () => [],
  checkpointReports: () => [],
  migrationReports: () => [],
  containers: [],
  revision: 0,
  leaderEpoch: 0,
  followAnswer: () => Promise.resolve(),
} as unknown as Node;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** How long after each report the next one comes. */
async function gaps(answers: readonly (() => Promise<ReportReply>)[]): Promise<number[]> {
  let reports = 0;
  const host = hostThat(() => {
    reports += 1;
    return answers[reports - 1]?.() ?? Promise.resolve(accepted(0));
  });
  await using reporter = new Reporter(host, NodeInfo.fromPartial({ name: "n1" }), "i");
  reporter.start(node);
  await vi.advanceTimersByTimeAsync(0);
  const found: number[] = [];
  for (let sinceMs = 100; found.length < answers.length; sinceMs += 100) {
    const before = reports;
    await vi.advanceTimersByTimeAsync(100);
    if (reports === before) continue;
    found.push(sinceMs);
    sinceMs = 0;
  }
  return found;
}

test("a host reports as often as the leader asks for, but each second and three times in its lease", async () => {
  const answer = (reportEveryMs: number) => () => Promise.resolve(accepted(reportEveryMs));
  const silent = (): Promise<ReportReply> => Promise.reject(new Error("no responders"));
  expect(await gaps([answer(0), answer(4_000), answer(3_600_000), silent, answer(200)])).toEqual([
    1_000, 4_000, 5_000, 1_000, 1_000,
  ]);
});

test("what has changed is reported at once", async () => {
  let reports = 0;
  const host = hostThat(() => {
    reports += 1;
    return Promise.resolve(accepted(5_000));
  });
  await using reporter = new Reporter(host, NodeInfo.fromPartial({ name: "n1" }), "i");
  reporter.start(node);
  await vi.advanceTimersByTimeAsync(100);
  expect(reports).toBe(1);
  reporter.wake();
  await vi.advanceTimersByTimeAsync(0);
  expect(reports).toBe(2);
});
