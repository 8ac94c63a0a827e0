/** A stream cipher whose place in the file is known: each page is written once, and read where it is. */
export const HELD_CIPHER = "aes-256-ctr";
export const HELD_KEY_BYTES = 32;

export interface RecorderTerms {
  readonly path: string;
  readonly key: Uint8Array;
}

/** `slab` is the recorder's until it is recorded. */
export type ToRecorder =
  { readonly kind: "record"; readonly slab: ArrayBuffer; readonly pages: number } | { readonly kind: "end" };

export type FromRecorder =
  | { readonly kind: "recorded"; readonly slab: ArrayBuffer; readonly digests: Uint32Array<ArrayBuffer> }
  | { readonly kind: "failed"; readonly reason: string };
