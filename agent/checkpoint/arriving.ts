import { readFileSync } from "node:fs";

const SYN_RECEIVED = "03";
const TIME_WAIT = "06";
const LISTENING = "0A";

/**
 * Whether TCP connections to the process's network namespace are being made, or were until a moment ago. The kernel
 * walks through its whole table of connections for this: some milliseconds.
 */
export function connectionsArrive(pid: number): boolean {
  return ["tcp", "tcp6"].some((family) => {
    let text: string;
    try {
      text = readFileSync(`/proc/${pid}/net/${family}`, "latin1");
    } catch {
      return false; // a kernel without IPv6
    }
    // "sl local remote st tx_queue:rx_queue …": a listening socket's rx_queue counts connections.
    return [...text.matchAll(/^ *\d+: \S+ \S+ (\S\S) \S+:(\S+)/gm)].some(
      ([, state, queue = "0"]) =>
        state === SYN_RECEIVED || state === TIME_WAIT || (state === LISTENING && parseInt(queue, 16) > 0),
    );
  });
}
