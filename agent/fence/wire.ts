/** What an agent and the fence of its host say to each other; see deploy/fence/fence.c. Pure. */

export const Order = { extend: 1n, lift: 2n, query: 3n } as const;
export type OrderWord = (typeof Order)[keyof typeof Order];

/** Never. */
export const NO_DEADLINE = 2n ** 64n - 1n;

export interface FenceAnswer {
  readonly what: bigint;
  readonly untilNs: bigint;
  readonly state: "open" | "closing" | "closed";
}

const ANSWER_BYTES = 32;
const STATES = ["open", "closing", "closed"] as const;

export function encodeOrder(what: OrderWord, untilNs: bigint): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(what, 0);
  bytes.writeBigUInt64LE(untilNs, 8);
  return bytes;
}

/** Takes whole answers off the front; what is left belongs to the next. */
export function decodeAnswers(bytes: Buffer): { answers: FenceAnswer[]; rest: Buffer } {
  const answers: FenceAnswer[] = [];
  let at = 0;
  for (; at + ANSWER_BYTES <= bytes.length; at += ANSWER_BYTES)
    answers.push({
      what: bytes.readBigUInt64LE(at),
      untilNs: bytes.readBigUInt64LE(at + 8),
      // What this version does not know is not open.
      state: STATES[Number(bytes.readBigUInt64LE(at + 16))] ?? "closing",
    });
  return { answers, rest: bytes.subarray(at) };
}
