/** Sizes, durations and cpus as people write them, and back. Pure. */
import { GodwitError } from "../../proto/contract/error.ts";

const SIZE_UNITS: { readonly [unit: string]: number } = {
  "": 1,
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
};
const DURATION_UNITS: { readonly [unit: string]: number } = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

const wrong = (what: string, text: string, wanted: string): GodwitError =>
  new GodwitError("invalid", `${JSON.stringify(text)} is no ${what}; write ${wanted}`);

/** "256m", "1.5g", "4096", "512KiB" -> bytes. Units are binary: 1k is 1,024 bytes. */
export function parseBytes(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*([bkmgt]?)(?:i?b)?$/.exec(text.trim().toLowerCase());
  const factor = SIZE_UNITS[match?.[2] ?? ""];
  const bytes = Math.round(Number(match?.[1]) * (factor ?? Number.NaN));
  if (match === null || !Number.isSafeInteger(bytes))
    throw wrong("size", text, "a number with k, m, g or t after it, such as 256m or 1g");
  return bytes;
}

/** "300ms", "2m", "1h30m", "45s" -> milliseconds. */
export function parseDurationMs(text: string): number {
  const wanted = "one such as 300ms, 45s, 2m or 1h30m";
  const parts = [
    ...text
      .trim()
      .toLowerCase()
      .matchAll(/([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)/g),
  ];
  if (parts.length === 0 || parts.map((part) => part[0]).join("") !== text.trim().toLowerCase())
    throw wrong("duration", text, wanted);
  const ms = Math.round(
    parts.reduce((sum, part) => sum + Number(part[1]) * (DURATION_UNITS[part[2] ?? ""] ?? Number.NaN), 0),
  );
  if (!Number.isSafeInteger(ms)) throw wrong("duration", text, wanted);
  return ms;
}

/** "10m" and "10MiB/s" in binary units of bytes a second, "100mbit" in decimal ones of bits -> bytes a second. */
export function parseRate(text: string): number {
  const plain = text
    .trim()
    .toLowerCase()
    .replace(/(\/s|ps)$/, "");
  const bits = /^([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)bit$/.exec(plain);
  const rate =
    bits === null
      ? parseBytesOr(plain, () => wrong("rate", text, RATE_FORM))
      : Math.round((Number(bits[1]) * 1000 ** ("kmgt".indexOf(bits[2] || " ") + 1)) / 8);
  if (!Number.isSafeInteger(rate) || rate < MIN_RATE) throw wrong("rate", text, RATE_FORM);
  return rate;
}
const MIN_RATE = 1024;
const RATE_FORM = "one such as 20m (MiB a second) or 100mbit, at least 1k";

function parseBytesOr(text: string, failure: () => GodwitError): number {
  try {
    return parseBytes(text);
  } catch {
    throw failure();
  }
}

/** 43 letters, as messages about stream keys show them. */
export function parseKey(text: string): Buffer {
  const key = Buffer.from(text.trim(), "base64url");
  if (!/^[\w-]{43}$/.test(text.trim()) || key.length !== 32)
    throw wrong("stream key", text, "the 43 letters and digits that the log of the node's agent names");
  return key;
}

/** "0.5", "2", "250m" -> thousandths of a core. */
export function parseCpuMillis(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)(m?)$/.exec(text.trim());
  const millis = Math.round(Number(match?.[1]) * (match?.[2] === "m" ? 1 : 1_000));
  if (match === null || !Number.isSafeInteger(millis) || (millis === 0 && Number(match[1]) !== 0)) {
    throw wrong("number of cpus", text, "one such as 0.5 or 2, at least 0.001");
  }
  return millis;
}

/** A whole number of at least `least`. `what` names it in the error: "number of lines". */
export function parseCount(text: string, what: string, least = 0): number {
  const count = Number(text);
  if (!/^[0-9]+$/.test(text.trim()) || !Number.isSafeInteger(count) || count < least || count > 2 ** 31 - 1) {
    throw wrong(what, text, `a whole number of at least ${least}`);
  }
  return count;
}

/** An RFC 3339 time, or a duration that reaches back from `nowMs`: milliseconds since 1970. */
export function parseSinceMs(text: string, nowMs: number): number {
  if (/^[0-9]{4}-[0-9]{2}-[0-9]{2}/.test(text)) {
    const ms = Date.parse(text);
    if (!Number.isNaN(ms)) return ms;
  } else if (/^[0-9.]+(ms|s|m|h|d)/i.test(text.trim())) {
    return nowMs - parseDurationMs(text);
  }
  throw wrong("time", text, "one such as 2026-01-31T12:00:00Z, or how long ago: 10m");
}

/** "0 B", "115 MiB", "1.2 GiB": three digits at most. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : Number(value.toFixed(1))} ${units[unit] ?? ""}`;
}

/** "87 ms", "1.2 s", "4m12s", "3h05m", "2d04h". */
export function formatDuration(ms: number): string {
  if (ms < 0) return `-${formatDuration(-ms)}`;
  if (ms < 999.5) return `${ms < 9.95 && ms > 0 ? Number(ms.toFixed(1)) : Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 59.95) return `${Number(seconds.toFixed(seconds < 9.95 ? 2 : 1))} s`;
  const whole = Math.round(seconds);
  const two = (n: number): string => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86_400)}d${two(Math.floor((whole % 86_400) / 3600))}h`;
}

/** How long ago, as ages of containers are shown: "12s", "4m", "3h", "2d". */
export function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

export const formatCpus = (millis: number): string => String(millis / 1000);
