/**
 * What is known of each container's load, as numbers side by side: there may be a million of them, and as objects they
 * would take four times the memory. A row is known by its number, which does not change for as long as it is there.
 */
const FIELDS = [
  "cpuMillis",
  "memoryBytes",
  "recentCpuMillis",
  "watchedMs",
  "watchedHereMs",
  /** The counter at the last sample; NaN: the next one only begins anew. */
  "baseUsec",
  /** The number of the node that it counts on. */
  "node",
  /** When that was, by its host's clock; NaN: it has not been sampled. */
  "clockMs",
] as const;
export type Field = (typeof FIELDS)[number];

const OFFSET = Object.fromEntries(FIELDS.map((field, at) => [field, at])) as Record<Field, number>;
const WIDTH = FIELDS.length;
/** Rows are made so many at a time: one array of all would have to be copied to grow. */
const CHUNK_BITS = 10;
const CHUNK_MASK = (1 << CHUNK_BITS) - 1;

export class LoadTable {
  readonly #rows = new Map<string, number>();
  readonly #ids: string[] = [];
  readonly #free: number[] = [];
  readonly #chunks: Float64Array[] = [];

  find(id: string): number | undefined {
    return this.#rows.get(id);
  }
  idOf(row: number): string {
    return this.#ids[row] ?? "";
  }

  /** All zero, but for the counter and its time. */
  add(id: string, node: number): number {
    const row = this.#free.pop() ?? this.#ids.length;
    this.#rows.set(id, row);
    this.#ids[row] = id;
    const chunk = (this.#chunks[row >>> CHUNK_BITS] ??= new Float64Array(WIDTH << CHUNK_BITS));
    const from = (row & CHUNK_MASK) * WIDTH;
    chunk.fill(0, from, from + WIDTH);
    this.set(row, "baseUsec", Number.NaN);
    this.set(row, "clockMs", Number.NaN);
    this.set(row, "node", node);
    return row;
  }

  remove(row: number): void {
    this.#rows.delete(this.idOf(row));
    this.#ids[row] = "";
    this.#free.push(row);
  }

  get(row: number, field: Field): number {
    return this.#chunks[row >>> CHUNK_BITS]?.[(row & CHUNK_MASK) * WIDTH + OFFSET[field]] ?? 0;
  }
  set(row: number, field: Field, value: number): void {
    const chunk = this.#chunks[row >>> CHUNK_BITS];
    if (chunk !== undefined) chunk[(row & CHUNK_MASK) * WIDTH + OFFSET[field]] = value;
  }
}
