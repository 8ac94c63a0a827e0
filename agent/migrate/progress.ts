import type { MigrationPhase, MigrationReport, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationPhase as Phase } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationFigures } from "../../proto/gen/godwit/v1/spec.ts";

/** What this host reports of one migration. Each change wakes the reporter. */
export class MigrationProgress {
  readonly id: string;
  readonly #containerId: string;
  readonly #role: Role;
  readonly #changed: () => void;
  #phase: MigrationPhase;
  #error = "";
  #figures = MigrationFigures.fromPartial({});
  #bytesDone = 0;
  #bytesTotal = 0;

  constructor(id: string, containerId: string, role: Role, phase: MigrationPhase, changed: () => void) {
    this.id = id;
    this.#containerId = containerId;
    this.#role = role;
    this.#phase = phase;
    this.#changed = changed;
  }

  get failed(): boolean {
    return this.#phase === Phase.FAILED;
  }

  enter(phase: MigrationPhase): void {
    this.#phase = phase;
    this.#changed();
  }

  fail(reason: string): void {
    this.#error = reason;
    this.enter(Phase.FAILED);
  }

  figures(known: Partial<MigrationFigures>): void {
    this.#figures = { ...this.#figures, ...known };
  }

  estimate(bytesTotal: number): void {
    this.#bytesTotal = bytesTotal;
    this.#changed();
  }

  sent(bytesDone: number): void {
    this.#bytesDone = bytesDone;
    this.#changed();
  }

  report(): MigrationReport {
    return {
      id: this.id,
      containerId: this.#containerId,
      role: this.#role,
      phase: this.#phase,
      error: this.#error,
      figures: this.#figures,
      bytesDone: this.#bytesDone,
      bytesTotal: this.#bytesTotal,
    };
  }
}
