import { COMPRESSED_FORMS, type CompressedForm, type FormCost, type FormCosts } from "./form-choice.ts";

/**
 * What is assumed until it has been seen: ratios that let `dense` begin, and no others be taken unseen on a link that is
 * slow enough for it.
 */
const ASSUMED: FormCosts = {
  light: { msPerByte: 1000 / 800e6, ratio: 0.5 },
  dense: { msPerByte: 1000 / 500e6, ratio: 0.4 },
  denser: { msPerByte: 1000 / 400e6, ratio: 0.4 },
};
/**
 * Of a new measurement of so many bytes or more; of less it counts for less. After others were measured it counts for
 * more, as the data may be different by now: as if it had been this one so many times.
 */
const WEIGHT = 0.2;
const MAX_TIMES = 6;
const WHOLE_BYTES = 128 * 1024;
/** A measurement counts as so many times what was known at most: one that was interrupted says nothing of the form. */
const MOST_GROWTH = 2;
/** Trials take up to this part of the time. */
const TRIAL_SHARE = 1 / 32;
/** Less would tell too little. */
const MIN_TRIAL_BYTES = 32 * 1024;

interface Known extends FormCost {
  /** Order of measurements of its ratio, and of its time; 0: never. */
  readonly seen: number;
  readonly timed: number;
}

/** What the forms have cost lately on this host, with this data. Without a clock of its own. */
export class FormBook {
  readonly #known: Record<CompressedForm, Known>;
  #seen = 0;
  #triedAtMs = -Infinity;

  constructor() {
    const unseen = (form: CompressedForm): Known => ({ ...ASSUMED[form], seen: 0, timed: 0 });
    this.#known = { light: unseen("light"), dense: unseen("dense"), denser: unseen("denser") };
  }

  get costs(): FormCosts {
    return this.#known;
  }

  /** @param ms undefined: it was waited for together with other things */
  measured(form: CompressedForm, bytes: number, length: number, ms: number | undefined): void {
    const known = this.#known[form];
    this.#seen += 1;
    const part = Math.min(1, bytes / WHOLE_BYTES);
    const weight = 1 - (1 - WEIGHT) ** (Math.min(this.#seen - known.seen, MAX_TIMES) * part);
    const msPerByte =
      ms === undefined ? known.msPerByte : Math.min(ms / bytes, known.msPerByte * MOST_GROWTH);
    const ratio = Math.min(1, length / bytes);
    this.#known[form] = {
      msPerByte: known.msPerByte + (msPerByte - known.msPerByte) * weight,
      ratio: known.ratio + (ratio - known.ratio) * (known.seen === 0 ? part : weight),
      seen: this.#seen,
      timed: ms === undefined ? known.timed : this.#seen,
    };
  }

  /** A form to be tried, and timed: what was longest ago, when the time for it has been saved up. */
  trial(bytes: number, nowMs: number): CompressedForm | undefined {
    if (bytes < MIN_TRIAL_BYTES) return undefined;
    const form = COMPRESSED_FORMS.reduce((oldest, one) =>
      this.#known[one].timed < this.#known[oldest].timed ? one : oldest,
    );
    if (nowMs - this.#triedAtMs < (bytes * this.#known[form].msPerByte) / TRIAL_SHARE) return undefined;
    this.#triedAtMs = nowMs;
    return form;
  }
}
