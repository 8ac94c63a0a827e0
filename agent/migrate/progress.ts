import type { ErrorCode, GodwitError } from "../../proto/contract/error.ts";
import type { MigrationPhase, MigrationReport, Role } from "../../proto/gen/godwit/v1/agent.ts";
import { MigrationPhase as Phase } from "../../proto/gen/godwit/v1/agent.ts";
import {
  type CopyProgress,
  type MigrationForecast,
  MigrationFigures,
} from "../../proto/gen/godwit/v1/spec.ts";

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
  #forecast: MigrationForecast | undefined;
  #copy: CopyProgress | undefined;
  #errorCode: ErrorCode | undefined;

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

  fail(error: GodwitError): void {
    this.#error = error.message;
    this.#errorCode = error.code;
    this.enter(Phase.FAILED);
  }

  giveUp(reason: string): void {
    this.#error = reason;
    this.enter(Phase.GIVEN_UP);
  }

  figures(known: Partial<MigrationFigures>): void {
    this.#figures = { ...this.#figures, ...known };
  }

  /** As the move was seen before its first byte. */
  forecast(forecast: MigrationForecast): void {
    this.#forecast = forecast;
    this.#changed();
  }

  copying(copy: CopyProgress): void {
    this.#copy = copy;
    this.#changed();
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
      forecast: this.#forecast,
      copy: this.#phase === Phase.COPYING ? this.#copy : undefined,
      errorCode: this.#errorCode,
      pageSession: 0,
    };
  }
}
