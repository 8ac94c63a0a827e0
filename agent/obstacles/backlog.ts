import { readFileSync } from "node:fs";

const LISTENING = "0A";

/** Listening TCP sockets ("tcp:inode") of the process's network namespace with connections that nobody has accepted yet. */
export function waitingConnections(pid: number): Set<string> {
  const waiting = new Set<string>();
  for (const family of ["tcp", "tcp6"]) {
    let text: string;
    try {
      text = readFileSync(`/proc/${pid}/net/${family}`, "latin1");
    } catch {
      continue; // ended, or a kernel without IPv6
    }
    // "sl local remote st tx_queue:rx_queue tr:when retrnsmt uid timeout inode …"
    for (const match of text.matchAll(/^ *\d+: \S+ \S+ (\S\S) \S+:(\S+) \S+ +\S+ +\d+ +\d+ (\d+)/gm)) {
      if (match[1] === LISTENING && parseInt(match[2] ?? "0", 16) > 0) waiting.add(`${family}:${match[3]}`);
    }
  }
  return waiting;
}
