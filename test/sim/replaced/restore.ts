/** agent/checkpoints/restore.ts: no checkpoint is ordered in a simulation. */
export const restoreFromCheckpoint = (): Promise<never> =>
  Promise.reject(new Error("a simulation has no checkpoints, and somebody goes on from one"));
