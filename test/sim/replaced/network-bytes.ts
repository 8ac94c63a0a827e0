/** In the place of agent/native/network-bytes.ts: nothing is sent. */
export function networkBytes(): undefined {
  return undefined;
}
