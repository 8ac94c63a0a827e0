/** Times of the week, in UTC: "Mon-Fri 22:00-06:00". Pure. */

const DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"] as const;
const DAY_MINUTES = 24 * 60;
const MINUTE_MS = 60_000;
/** 1970 began on a Thursday. */
const FIRST_DAY = 4;

interface Window {
  /** Days on which it begins, 0 for Sunday. */
  readonly days: ReadonlySet<number>;
  readonly fromMinute: number;
  /** Not above `fromMinute`: it ends on the next day. */
  readonly toMinute: number;
}

const FORM = /^(?:([a-z]{3}(?:-[a-z]{3})?(?:,[a-z]{3}(?:-[a-z]{3})?)*) +)?(\d\d):(\d\d)-(\d\d):(\d\d)$/;

const daysOf = (text: string | undefined): ReadonlySet<number> | undefined => {
  if (text === undefined || text === "daily") return new Set(DAYS.keys());
  const days = new Set<number>();
  for (const part of text.split(",")) {
    const [first = -1, last = first] = part.split("-").map((name) => DAYS.findIndex((day) => day === name));
    if (first < 0 || last < 0) return undefined;
    for (let day = first; ; day = (day + 1) % DAYS.length) {
      days.add(day);
      if (day === last) break;
    }
  }
  return days;
};

const minuteOf = (hours: string | undefined, minutes: string | undefined): number | undefined => {
  const minute = Number(hours) * 60 + Number(minutes);
  return Number(minutes) < 60 && minute <= DAY_MINUTES ? minute : undefined;
};

/** Undefined: that is none. Without days it is for every day. */
export const parseWindow = (text: string): Window | undefined => {
  const match = FORM.exec(
    text
      .trim()
      .toLowerCase()
      .replace(/^daily +/, ""),
  );
  if (match === null) return undefined;
  const days = daysOf(match[1]);
  const fromMinute = minuteOf(match[2], match[3]);
  const toMinute = minuteOf(match[4], match[5]);
  if (days === undefined || fromMinute === undefined || toMinute === undefined || fromMinute === DAY_MINUTES)
    return undefined;
  return { days, fromMinute, toMinute };
};

const isInside = ({ days, fromMinute, toMinute }: Window, day: number, minute: number): boolean => {
  const yesterday = (day + DAYS.length - 1) % DAYS.length;
  if (fromMinute < toMinute) return days.has(day) && minute >= fromMinute && minute < toMinute;
  return (days.has(day) && minute >= fromMinute) || (days.has(yesterday) && minute < toMinute);
};

/** Whether one of the windows is open; without any it always is. A text that is no window never opens. */
export const isWithin = (windows: readonly string[], nowMs: number): boolean => {
  if (windows.length === 0) return true;
  const minutes = Math.floor(nowMs / MINUTE_MS);
  const day = (Math.floor(minutes / DAY_MINUTES) + FIRST_DAY) % DAYS.length;
  return windows.some((text) => {
    const window = parseWindow(text);
    return window !== undefined && isInside(window, day, minutes % DAY_MINUTES);
  });
};
