import { readFileSync } from "node:fs";

const INTERFACE = "eth0";

/** What a process's network namespace has received and sent over its interface; undefined: it has ended, or has none. */
export function networkBytes(pid: number): { readonly received: number; readonly sent: number } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/net/dev`, "utf8");
  } catch {
    return undefined; // it has just ended
  }
  // Eight columns of what was received, then eight of what was sent (proc_pid_net(5)).
  const fields = new RegExp(`^\\s*${INTERFACE}:\\s*(.*)$`, "m").exec(text)?.[1]?.split(/\s+/).map(Number);
  const [received, sent] = [fields?.[0], fields?.[8]];
  return received === undefined || sent === undefined ? undefined : { received, sent };
}
