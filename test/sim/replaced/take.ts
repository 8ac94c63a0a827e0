/** agent/checkpoints/take.ts: no checkpoint is ordered in a simulation. */
const absent = (): Promise<never> =>
  Promise.reject(new Error("a simulation orders no checkpoints, and somebody takes one"));

export const takeCheckpoint = absent;
export const sendToKeepers = absent;
