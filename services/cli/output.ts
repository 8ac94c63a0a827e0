/** Standard output: one JSON document, or a table as kubectl prints them. */
import { GodwitError } from "../../proto/contract/error.ts";

export const FORMATS = ["table", "json", "wide"] as const;
export type OutputFormat = (typeof FORMATS)[number];

export function parseFormat(text: string): OutputFormat {
  const format = FORMATS.find((known) => known === text);
  if (format === undefined)
    throw new GodwitError(
      "invalid",
      `${JSON.stringify(text)} is no output format; known are ${FORMATS.join(", ")}`,
    );
  return format;
}

export interface Column<T> {
  readonly title: string;
  readonly cell: (item: T) => string;
  /** Shown with `-o wide` only. */
  readonly wide?: boolean;
  readonly right?: boolean;
}

export function printJson(document: unknown): void {
  process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
}

export async function printList<T>(
  format: OutputFormat,
  items: readonly T[],
  columns: readonly Column<T>[],
  json: (item: T) => unknown,
): Promise<void> {
  if (format === "json") printJson(items.map(json));
  else process.stdout.write(await table(items, columns, format === "wide"));
}

/** "KEY  value" lines. */
export async function printFields(fields: readonly (readonly [string, string])[]): Promise<void> {
  const { default: Table } = await import("cli-table3");
  const lines = new Table({
    chars: BORDERLESS,
    style: { "padding-left": 0, "padding-right": 2, head: [], border: [] },
  });
  for (const [key, value] of fields) lines.push([key, oneLine(value)]);
  process.stdout.write(trimmed(lines.toString()));
}

export async function table<T>(
  items: readonly T[],
  columns: readonly Column<T>[],
  wide: boolean,
): Promise<string> {
  const shown = columns.filter((column) => wide || column.wide !== true);
  const { default: Table } = await import("cli-table3");
  const lines = new Table({
    head: shown.map((column) => column.title),
    colAligns: shown.map((column) => (column.right === true ? "right" : "left")),
    chars: BORDERLESS,
    style: { "padding-left": 0, "padding-right": 2, head: [], border: [] },
  });
  for (const item of items) lines.push(shown.map((column) => oneLine(column.cell(item))));
  return trimmed(lines.toString());
}

const BORDERLESS = {
  top: "",
  "top-mid": "",
  "top-left": "",
  "top-right": "",
  bottom: "",
  "bottom-mid": "",
  "bottom-left": "",
  "bottom-right": "",
  left: "",
  "left-mid": "",
  mid: "",
  "mid-mid": "",
  right: "",
  "right-mid": "",
  middle: "",
};

// Messages come from containers and agents: what would move a terminal's cursor is made visible instead.
// oxlint-disable-next-line no-control-regex
export const oneLine = (text: string): string => text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");
const trimmed = (text: string): string => text.replace(/[ \t]+$/gm, "").concat("\n");
