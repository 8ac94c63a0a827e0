/** Signals by their number on Linux (x86-64), from 1 on. */
const NAMES = [
  "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
  "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
  "PWR", "SYS",
]; // prettier-ignore
/** What the C library leaves of the kernel's real-time signals. */
const RTMIN = 34;
const RTMAX = 64;

/** The number of "SIGINT", "INT", "2" or "SIGRTMIN+3"; undefined for what is no signal. */
export function signalNumber(text: string): number | undefined {
  const name = text.toUpperCase().replace(/^SIG/, "");
  const realTime = /^RT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  let number: number;
  if (realTime !== null) {
    const distance = Number(realTime[3] ?? 0) * (realTime[2] === "-" ? -1 : 1);
    number = (realTime[1] === "MIN" ? RTMIN : RTMAX) + distance;
    return number >= RTMIN && number <= RTMAX ? number : undefined;
  }
  number = /^\d{1,2}$/.test(text) ? Number(text) : NAMES.indexOf(name) + 1;
  return number >= 1 && number <= RTMAX ? number : undefined;
}
