/** Which key a node may show: the one that it joined with, until an operator says otherwise. */
import type { Node, NodeInfo } from "../../proto/gen/godwit/v1/log.ts";
import { reject, type Outcome } from "./rejection.ts";

export const sameKey = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && a.every((byte, at) => byte === b[at]);

/** As operators copy it from one message into another: 43 characters. */
export const formatKey = (key: Uint8Array): string =>
  btoa(String.fromCharCode(...key)).replace(/[+/=]/g, (letter) => KEY_LETTERS[letter] ?? "");
const KEY_LETTERS: { readonly [letter: string]: string } = { "+": "-", "/": "_" };

/**
 * The memory of moved containers is sent to whoever has the key, so a node with another one may be somebody else. A
 * node that showed none (an older agent) may begin to.
 */
export const keyCheck = ({ info: known }: Node, info: NodeInfo): Outcome => {
  if (known === undefined || known.streamKey.length === 0 || sameKey(known.streamKey, info.streamKey))
    return undefined;
  const { name, streamKey } = info;
  if (streamKey.length === 0)
    return reject(
      "refused",
      `node ${name} shows no stream key, which it had before: is its agent an older version?`,
    );
  return reject(
    "refused",
    `node ${name} shows another stream key than the one that it joined with, so it may be another machine; ` +
      `if its data folder was lost and the log of its agent names this key, "godwit node trust ${name} ${formatKey(streamKey)}" lets it in`,
  );
};
