/** Reads fields of JSON that strangers wrote. */
import { GodwitError } from "../../../proto/contract/error.ts";

export class Shape {
  readonly #value: unknown;
  readonly #where: string;

  private constructor(value: unknown, where: string) {
    this.#value = value;
    this.#where = where;
  }

  static parse(bytes: Buffer, where: string): Shape {
    try {
      return new Shape(JSON.parse(bytes.toString("utf8")), where);
    } catch (error) {
      throw new GodwitError(
        "corrupt",
        `${where} is not valid JSON (${error instanceof Error ? error.message : String(error)})`,
        { cause: error },
      );
    }
  }

  get absent(): boolean {
    return this.#value === undefined || this.#value === null;
  }

  field(name: string): Shape {
    if (typeof this.#value !== "object" || this.#value === null || Array.isArray(this.#value))
      this.#wrong("an object");
    return new Shape((this.#value as Record<string, unknown>)[name], `${this.#where}.${name}`);
  }

  string(): string {
    if (typeof this.#value !== "string") this.#wrong("a string");
    return this.#value;
  }
  optionalString(): string {
    return this.absent ? "" : this.string();
  }

  array(): Shape[] {
    if (!Array.isArray(this.#value)) this.#wrong("an array");
    return (this.#value as unknown[]).map((item, i) => new Shape(item, `${this.#where}[${i}]`));
  }
  optionalStrings(): string[] {
    return this.absent ? [] : this.array().map((item) => item.string());
  }

  #wrong(wanted: string): never {
    throw new GodwitError(
      "corrupt",
      this.absent ? `${this.#where} is missing` : `${this.#where} must be ${wanted}`,
    );
  }
}
