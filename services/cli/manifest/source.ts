/** A file that somebody wrote, and what is wrong with it, by line and column. Pure. */
import { LineCounter } from "yaml";
import { formatList } from "./suggest.ts";

export interface Problem {
  /** From 1. */
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

/** More would not be read. */
const SHOWN = 20;
/** Of a line that is shown. */
const MAX_WIDTH = 160;

export class Source {
  readonly name: string;
  readonly text: string;
  readonly counter = new LineCounter();
  readonly problems: Problem[] = [];

  constructor(name: string, text: string) {
    this.name = name;
    this.text = text;
  }

  lineOf(offset: number): number {
    return Math.max(1, this.counter.linePos(offset).line);
  }

  report(offset: number, message: string): void {
    const { col, line } = this.counter.linePos(Math.min(offset, this.text.length));
    this.problems.push({ line: Math.max(1, line), column: Math.max(1, col), message });
  }

  /** "web.yaml:7:3: …" with the line itself below and a mark under the place. */
  describe(): string[] {
    const lines = this.text.split("\n");
    const sorted = this.problems.toSorted((a, b) => a.line - b.line || a.column - b.column);
    const shown = sorted.slice(0, SHOWN).flatMap(({ column, line, message }) => {
      const before = `${String(line).padStart(5)} | `;
      const text = (lines[line - 1] ?? "").replaceAll("\t", " ").replace(/\r$/, "");
      const head = `${this.name}:${line}:${column}: ${message}`;
      if (column > MAX_WIDTH) return [head];
      return [head, `${before}${text.slice(0, MAX_WIDTH)}`, `${" ".repeat(5)} | ${" ".repeat(column - 1)}^`];
    });
    const rest = sorted.length - SHOWN;
    return rest > 0 ? [...shown, `and ${rest} more`] : shown;
  }
}

/** Keys that are looked for one level too high, and the mapping that has them. */
const INSIDE: Readonly<Record<string, string>> = {
  ...{ memory: "limits", cpus: "limits", pids: "limits", disk: "limits" },
  ...{ image: "container", command: "container", env: "container", health: "container", limits: "container" },
  ...{ batch: "update", monitor: "update", onFailure: "update", maxUnavailable: "disruption" },
};

/** What a key that nobody knows may have been meant to be. */
export const unknownKey = (key: string, known: readonly string[]): string => {
  const outer = Object.hasOwn(INSIDE, key) ? INSIDE[key] : undefined;
  if (outer !== undefined && known.includes(outer))
    return `unknown key ${JSON.stringify(key)}: it belongs into ${JSON.stringify(outer)}`;
  const { nearest, all } = formatList(key, known);
  return nearest === undefined
    ? `unknown key ${JSON.stringify(key)}: known here are ${all}`
    : `unknown key ${JSON.stringify(key)}: did you mean ${JSON.stringify(nearest)}?`;
};
