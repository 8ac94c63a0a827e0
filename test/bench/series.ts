import type { LoadWindow } from "./load-client.ts";

/** One move, as the client felt it and as the mover itself tells it. Times of the mover are absent where it has none. */
export interface MoveSample {
  readonly stallMs: number;
  /** The connection lived through it and every answer was right. */
  readonly isIntact: boolean;
  readonly error: string;
  readonly blackoutMs?: number;
  /** Said before it began. */
  readonly predictedBlackoutMs?: number;
  readonly totalMs: number;
  readonly memoryBytes?: number;
  readonly sentBytes: number;
  readonly mode?: string;
  readonly rounds?: number;
  /** Godwit's phases, or a baseline's two commands. */
  readonly phasesMs: Readonly<Record<string, number>>;
  readonly requests: number;
  readonly writtenBytes: number;
}

export type Method = "godwit-auto" | "godwit-checkpoint" | "runc" | "podman";

/** Moves of one container, one after the other, by one method. */
export interface Series {
  readonly sizeMegabytes: number;
  readonly processes: number;
  readonly writeMegabytesPerSecond: number;
  readonly method: Method;
  readonly samples: readonly MoveSample[];
  /** What made it impossible, or cut it short. */
  readonly note: string;
}

export interface SeriesPlan {
  readonly sizeMegabytes: number;
  /** That share the size between them; the client talks to one. */
  readonly processes: number;
  readonly writeMegabytesPerSecond: number;
  readonly rounds: number;
  /** Moves at the start that are not counted: they fetch images and fill caches. */
  readonly warmups: number;
}

export const seen = (window: LoadWindow): Pick<MoveSample, "stallMs" | "isIntact" | "error"> => ({
  stallMs: window.longestMs,
  isIntact: window.intact,
  error: window.error,
});
