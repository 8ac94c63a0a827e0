/**
 * In which form a chunk is sent: as it is, or compressed at one of zstd's levels. Pure.
 *
 * A higher level is not always the smaller one: of text that repeats itself within a page, 125 MiB of a redis, level -5
 * makes 1.8 MiB at 4.7 GB/s, -1 15.7 at 0.8, 1 7.8 at 0.7, and 3 2.6 at 1.1. Of records, 88 MiB, -5 makes 26.1 and 1, at
 * two thirds of its speed, 14.4. So what each makes of the data at hand is tried (form-costs.ts). -1 is nowhere best.
 */
export type Form = "stored" | CompressedForm;
export type CompressedForm = "light" | "dense" | "denser";
export const COMPRESSED_FORMS: readonly CompressedForm[] = ["light", "dense", "denser"];

/** What a form has been seen to cost lately. */
export interface FormCost {
  readonly msPerByte: number;
  /** Bytes sent for one byte of content. */
  readonly ratio: number;
}

export type FormCosts = Readonly<Record<CompressedForm, FormCost>>;

export interface Outlook {
  readonly bytes: number;
  readonly costs: FormCosts;
  /** So many chunks are compressed at a time, at least one. */
  readonly threads: number;
  /** Undefined: not known yet. */
  readonly linkMsPerByte: number | undefined;
  /** Sent before, and still on its way. */
  readonly backlogBytes: number;
  readonly before: Form;
  /** The container stands still: nothing counts but when the chunk is there. */
  readonly urgent: boolean;
}

/**
 * While the container runs, a smaller form may be this much later than the quickest one: the link is others' too. A
 * link that is much faster than zstd is not slowed down any more than that.
 */
const TOLERANCE = 2;
/** What is in use is left only for something that is clearly better. */
const HYSTERESIS = 1.15;
/** Sizes that are as near to each other as this count as the same, and the quickest of them is the best. */
const SAME_SIZE = 1.05;

const STORED: FormCost = { msPerByte: 0, ratio: 1 };

/**
 * Until when the chunk is through the link: it can be compressed while what was sent before is still on its way, so
 * on a link with a backlog compression costs nothing, and on an idle one all of its time.
 */
function arrivalMs(
  { bytes, linkMsPerByte = 0, backlogBytes, threads, urgent }: Outlook,
  { msPerByte, ratio }: FormCost,
): number {
  // Of chunk after chunk each takes its part of the threads' time; of one that is waited for, its own counts.
  const compressMs = (bytes * msPerByte) / (urgent ? 1 : threads);
  return Math.max(backlogBytes * linkMsPerByte, compressMs) + bytes * ratio * linkMsPerByte;
}

/** Steps that are each so much larger than the one before, so that noise does not make an order of its own. */
const sizeStep = (ratio: number): number => Math.floor(Math.log(ratio) / Math.log(SAME_SIZE));

/** The smallest form among those that are there in time. */
export function chooseForm(outlook: Outlook): Form {
  if (outlook.linkMsPerByte === undefined) return outlook.urgent ? "stored" : "dense";
  const { before, costs } = outlook;
  const forms = (["stored", ...COMPRESSED_FORMS] as const).map((form) => {
    const cost = form === "stored" ? STORED : costs[form];
    return { form, ...cost, step: sizeStep(cost.ratio), arrivalMs: arrivalMs(outlook, cost) };
  });
  const quickestMs = Math.min(...forms.map((one) => one.arrivalMs));
  const limitMs = quickestMs * (outlook.urgent ? 1 : TOLERANCE);
  const inTime = forms.filter((one) => one.arrivalMs <= limitMs * (one.form === before ? HYSTERESIS : 1));
  return inTime.reduce((best, one) =>
    one.step < best.step || (one.step === best.step && one.msPerByte < best.msPerByte) ? one : best,
  ).form;
}
