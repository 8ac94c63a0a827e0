import { readFileSync } from "node:fs";

export interface Arriving {
  /** TCP connections that are complete and that no process has accepted yet: CRIU refuses to dump them. */
  readonly waiting: number;
  /** Connections are being made, or were until a moment ago. */
  readonly busy: boolean;
}

const SYN_RECEIVED = "03";
const TIME_WAIT = "06";
const LISTENING = "0A";

/** Of the network namespace that the process is in. */
export function arrivingConnections(pid: number): Arriving {
  let waiting = 0;
  let busy = false;
  for (const family of ["tcp", "tcp6"]) {
    let text: string;
    try {
      text = readFileSync(`/proc/${pid}/net/${family}`, "latin1");
    } catch {
      continue; // a kernel without IPv6
    }
    // "sl local remote st tx_queue:rx_queue …": a listening socket's rx_queue counts connections.
    for (const match of text.matchAll(/^ *\d+: \S+ \S+ (\S\S) \S+:(\S+)/gm)) {
      if (match[1] === LISTENING) waiting += parseInt(match[2] ?? "0", 16);
      if (match[1] === SYN_RECEIVED || match[1] === TIME_WAIT) busy = true;
    }
  }
  return { waiting, busy: busy || waiting > 0 };
}
