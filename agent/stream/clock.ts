/** Time as an argument, so that tests need no sleeps. */
export interface Clock {
  nowMs(): number;
  /** Runs `tick` each `periodMs` until disposed; does not keep the process alive. */
  every(periodMs: number, tick: () => void): Disposable;
  /** Runs `action` once after `delayMs` unless disposed; does not keep the process alive. */
  after(delayMs: number, action: () => void): Disposable;
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  every(periodMs, tick) {
    const timer = setInterval(tick, periodMs);
    timer.unref();
    return { [Symbol.dispose]: () => clearInterval(timer) };
  },
  after(delayMs, action) {
    const timer = setTimeout(action, delayMs);
    timer.unref();
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};

/** How often a side that hears nothing asks, and checks whether the other has gone silent for good. */
export function tickPeriodMs(idleTimeoutMs: number): number {
  return Math.max(10, Math.min(1000, idleTimeoutMs / 4));
}
