/** In which form a chunk is sent: as it is, or compressed at one of zstd's levels. Pure. */
export type Form = "stored" | "fast" | "dense";

/** What a form has been seen to cost lately. */
export interface FormCost {
  readonly msPerByte: number;
  /** Bytes sent for one byte of content. */
  readonly ratio: number;
}

export interface Outlook {
  readonly bytes: number;
  readonly costs: { readonly [F in Exclude<Form, "stored">]: FormCost };
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

const STORED: FormCost = { msPerByte: 0, ratio: 1 };

/**
 * Until when the chunk is through the link: it can be compressed while what was sent before is still on its way, so
 * on a link with a backlog compression costs nothing, and on an idle one all of its time.
 */
function arrivalMs(
  { bytes, linkMsPerByte = 0, backlogBytes }: Outlook,
  { msPerByte, ratio }: FormCost,
): number {
  return Math.max(backlogBytes * linkMsPerByte, bytes * msPerByte) + bytes * ratio * linkMsPerByte;
}

/** The smallest form among those that are there in time. */
export function chooseForm(outlook: Outlook): Form {
  if (outlook.linkMsPerByte === undefined) return outlook.urgent ? "stored" : "dense";
  const { before, costs } = outlook;
  const forms = (["stored", "fast", "dense"] as const).map((form) => {
    const cost = form === "stored" ? STORED : costs[form];
    return { form, ratio: cost.ratio, arrivalMs: arrivalMs(outlook, cost) };
  });
  const quickestMs = Math.min(...forms.map((one) => one.arrivalMs));
  const limitMs = quickestMs * (outlook.urgent ? 1 : TOLERANCE);
  const inTime = forms.filter((one) => one.arrivalMs <= limitMs * (one.form === before ? HYSTERESIS : 1));
  return inTime.reduce((best, one) => (one.ratio < best.ratio ? one : best)).form;
}
