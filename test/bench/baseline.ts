/** What one would do without Godwit: checkpoint on one host, restore on the other. */
import type { BenchAddress } from "./bench-address.ts";
import type { BenchHost } from "./bench-host.ts";

export interface BaselinePlace {
  /** On a tmpfs that all hosts see: what goes from host to host costs no disk and no network. */
  readonly sharedDir: string;
  readonly imageTar: string;
  readonly command: readonly string[];
  readonly address: BenchAddress;
}

export interface Baseline {
  readonly name: "runc" | "podman";
  /** Why it cannot run on this machine; undefined when it can. */
  missing(host: BenchHost): Promise<string | undefined>;
  /** Version and settings, for the output. */
  describe(host: BenchHost): Promise<string>;
  prepare(hosts: readonly BenchHost[]): Promise<void>;
  start(host: BenchHost): Promise<void>;
  /** The target's network is there already. Returns when the container runs there. */
  move(from: BenchHost, to: BenchHost): Promise<BaselineMove>;
  /** What a move leaves behind on its source, outside of what is measured. */
  tidy(from: BenchHost): Promise<void>;
  remove(host: BenchHost): Promise<void>;
}

export interface BaselineMove {
  /** The two commands, and what they tell of themselves. */
  readonly phasesMs: Readonly<Record<string, number>>;
  /** What was written for the other host. */
  readonly imageBytes: number;
}
