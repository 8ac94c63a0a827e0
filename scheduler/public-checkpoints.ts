/** The part of the scheduler that has to do with checkpoints; see public.ts. */
export interface CheckpointOperations {
  /** Resolves with its id when it is recorded; the state tells what becomes of it. */
  createCheckpoint(containerId: string): Promise<string>;
  /** The stopped container goes on from it. Resolves with the node, which is `node` if that is given. */
  restoreCheckpoint(id: string, node?: string): Promise<string>;
  removeCheckpoint(id: string): Promise<void>;
}
