const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** "512 MiB", "1.5 GiB": at most one decimal, for messages. */
export const formatBytes = (bytes: number): string => {
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number(value.toFixed(1))} ${UNITS[unit] ?? "B"}`;
};

/** "0.5 cpus" of 500 thousandths. */
export const formatCpus = (millis: number): string => `${millis / 1000} cpus`;

export const formatSeconds = (ms: number): string => `${Number((ms / 1000).toFixed(1))} s`;

/** "a, b, c and 4 more" */
export const someOf = (names: readonly string[], most = 3): string =>
  names.length <= most
    ? names.join(", ")
    : `${names.slice(0, most).join(", ")} and ${names.length - most} more`;
