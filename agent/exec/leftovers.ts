import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";

import type { Logger } from "pino";

import { processStat } from "../native/process.ts";
import { LEADER_FILE, PROCESS_FILE, readPid, readText, removeExecFolder } from "./runc-exec.ts";
import {
  describeLeader,
  killUnixSession,
  processesWithArgument,
  type SessionLeader,
} from "./unix-session.ts";

const KILL_WITHIN_MS = 5_000;
/** Other folders in the scratch directory are not ours to touch. */
const SESSION_FOLDER = /^[0-9a-f]{16}$/;

/** Ends the execs of an agent that was killed: nobody reads their output any more, and they would hinder a move. */
export async function endLeftovers(scratchDir: string, logger: Logger): Promise<void> {
  await mkdir(scratchDir, { recursive: true, mode: 0o700 });
  for (const name of await readdir(scratchDir)) {
    if (!SESSION_FOLDER.test(name)) continue;
    const folder = join(scratchDir, name);
    // The folder's name is random, so who has it in its arguments is the runc of this very exec.
    const runcs = await processesWithArgument(join(folder, PROCESS_FILE));
    const leader = (await readLeader(folder)) ?? (await leaderBelow(folder, runcs));
    if (leader !== undefined && !(await killUnixSession(leader, KILL_WITHIN_MS))) {
      logger.warn(
        { pid: leader.pid },
        "an exec of the agent's last run is told to die and has not died yet: is it frozen?",
      );
    }
    for (const pid of runcs) {
      try {
        process.kill(pid, "SIGKILL");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
    }
    await removeExecFolder(folder);
    logger.info({ session: name }, "ended an exec of the agent's last run");
  }
}

async function readLeader(folder: string): Promise<SessionLeader | undefined> {
  const text = await readText(join(folder, LEADER_FILE));
  return text === "" ? undefined : (JSON.parse(text) as SessionLeader);
}

/** The agent was killed between runc's writing of the pid and its own note of it. */
async function leaderBelow(folder: string, runcs: readonly number[]): Promise<SessionLeader | undefined> {
  const pid = await readPid(folder);
  const parent = pid === undefined ? undefined : processStat(pid)?.parentPid;
  if (pid === undefined || parent === undefined || !runcs.includes(parent)) return undefined;
  return describeLeader(pid);
}
