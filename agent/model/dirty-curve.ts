/** How much of a container's memory is written in a given time. Pure. */

/** Distinct pages that were written within a window of this length. */
export interface DirtySample {
  readonly windowMs: number;
  readonly pages: number;
}

/**
 * Pages are written again and again, so the distinct ones grow more slowly than time: between two samples by a power
 * of it (a straight line in logarithms), beyond the last one as they last grew, and never beyond the whole memory.
 * Rises with the window.
 */
export class DirtyCurve {
  readonly #samples: readonly DirtySample[];
  readonly #memoryPages: number;

  /** Samples of one window length count as their mean; those that fall are noise, and are lifted to the one before. */
  constructor(samples: Iterable<DirtySample>, memoryPages: number) {
    this.#memoryPages = memoryPages;
    const byWindow = new Map<number, number[]>();
    for (const { windowMs, pages } of samples) {
      if (!(windowMs > 0) || !(pages >= 0)) continue;
      const same = byWindow.get(windowMs);
      if (same === undefined) byWindow.set(windowMs, [pages]);
      else same.push(pages);
    }
    let most = 0;
    this.#samples = [...byWindow]
      .sort(([a], [b]) => a - b)
      .map(([windowMs, all]) => {
        most = Math.max(most, all.reduce((sum, pages) => sum + pages, 0) / all.length);
        return { windowMs, pages: most };
      });
  }

  get isKnown(): boolean {
    return this.#samples.length > 0;
  }

  pagesAfter(windowMs: number): number {
    const first = this.#samples[0];
    if (first === undefined || !(windowMs > 0)) return 0;
    return Math.min(this.#memoryPages, this.#at(windowMs, first));
  }

  #at(windowMs: number, first: DirtySample): number {
    // A straight line from nothing: what is written at all within the shortest window may be one burst.
    if (windowMs <= first.windowMs) return (first.pages * windowMs) / first.windowMs;
    let before = first;
    for (const sample of this.#samples.slice(1)) {
      if (windowMs <= sample.windowMs) {
        // From nothing there is no power that leads anywhere.
        if (before.pages === 0)
          return (sample.pages * (windowMs - before.windowMs)) / (sample.windowMs - before.windowMs);
        return before.pages * (windowMs / before.windowMs) ** exponent(before, sample);
      }
      before = sample;
    }
    const last = before;
    if (last.pages === 0) return 0;
    const earlier = this.#samples.at(-2);
    const growth = earlier === undefined || earlier.pages === 0 ? 1 : Math.min(1, exponent(earlier, last));
    return last.pages * (windowMs / last.windowMs) ** growth;
  }
}

/** Above 1 between samples only: what grows faster than time does so by chance, and will not go on. */
function exponent(from: DirtySample, to: DirtySample): number {
  return Math.log(to.pages / from.pages) / Math.log(to.windowMs / from.windowMs);
}
