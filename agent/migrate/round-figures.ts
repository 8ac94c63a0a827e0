/** What a round of copying memory has done. */
export interface RoundFigures {
  /** Pages that the container has, as far as is known, and those of them whose content this round sent. */
  readonly pages: number;
  readonly changedPages: number;
  /** Those that the target held since the container's last stay there. */
  readonly heldPages: number;
  readonly tookMs: number;
}
