import { expect, test } from "vitest";
import type { LogStore } from "../log/log-store.ts";
import { thisMachine } from "../log/machine.ts";
import { eventually } from "../testing/eventually.ts";
import { LogMembers } from "../testing/log-members.ts";
import { silent } from "../testing/sample.ts";
import { Candidacy } from "./candidacy.ts";

/** It writes what it is given, and says so only then. */
const silentUntil = (real: LogStore, until: Promise<void>): LogStore => ({
  bounds: () => real.bounds(),
  readOne: (sequence) => real.readOne(sequence),
  read: (from, to) => real.read(from, to),
  trimBefore: (sequence) => real.trimBefore(sequence),
  append: async (bytes, expectedLast) => {
    const result = await real.append(bytes, expectedLast);
    await until;
    return result;
  },
});

test("one leads by an election, too, whose entry is found when nobody waits for it any more", async () => {
  await using members = await LogMembers.start();
  const answered = Promise.withResolvers<void>();
  const { committer, log } = await members.member("s1", {
    deadlineMs: 100,
    wrap: (real) => silentUntil(real, answered.promise),
  });
  const heard: string[] = [];
  const given: unknown[] = [];
  const stand = committer.stand.bind(committer);
  committer.stand = () =>
    stand().catch((error: unknown) => {
      given.push(error);
      throw error;
    });
  const candidacy = members.stack.use(
    new Candidacy({
      id: "s1",
      leaseMs: 300,
      beatMs: 20,
      committer,
      askLeader: () => Promise.resolve("silence"),
      machine: thisMachine(),
      logger: silent,
      onElected: () => heard.push("elected"),
    }),
  );
  // Somebody is said to lead, so that it looks on, and stands when that one is not heard of any more.
  candidacy.signOfLife();
  committer.replica.cluster.state.leaderId = "s2";
  await candidacy.begin();
  await eventually("its entry to be in the log", async () => (await log.bounds()).last === 1);
  await eventually("nobody to wait for it", () => given.length > 0);
  expect(given).toMatchObject([{ code: "unavailable", message: /whether the change was made is not known/ }]);
  expect(heard).toEqual([]);
  answered.resolve();
  await eventually("it to learn that it leads", () => heard.length > 0);
  expect(committer.leading).toBe(true);
});
