/** The part of the scheduler that has to do with lost nodes; see public.ts. */
export interface FailoverOperations {
  /** Whether containers of lost nodes are started elsewhere, in the whole cluster. */
  setFailover(enabled: boolean): Promise<void>;
}
