/**
 * Follows what a program does to the terminal's modes, so that they can be undone when it is cut off: the other screen of
 * a full-screen program, a hidden cursor, reports of the mouse, colours. Pure.
 */

/** DEC private modes that are off (or, the cursor, on) in a shell. */
const USUALLY_ON = new Set([7, 25]);
const WATCHED = new Set([1, 5, 6, 7, 9, 25, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004]);
/** A sequence that goes on in the next piece is at most as long. */
const MAX_SEQUENCE = 64;

export class TerminalModes {
  readonly #changed = new Set<number>();
  #keypad = false;
  #coloured = false;
  #rest = "";

  /** What goes to the terminal. */
  take(output: Uint8Array): void {
    const text = this.#rest + Buffer.from(output).toString("latin1");
    // oxlint-disable-next-line no-control-regex
    for (const [sequence, parameters = "", final] of text.matchAll(/\u001b(?:\[([?0-9;]*)([hlm])|[=>c])/g)) {
      if (final === "m") this.#coloured = !/^0?$/.test(parameters);
      else if (final === undefined) this.#keypad = sequence.endsWith("=");
      else if (parameters.startsWith("?")) {
        for (const mode of parameters.slice(1).split(";").map(Number)) {
          if (!WATCHED.has(mode)) continue;
          if ((final === "h") === USUALLY_ON.has(mode)) this.#changed.delete(mode);
          else this.#changed.add(mode);
        }
      }
    }
    const open = text.lastIndexOf("\u001b");
    this.#rest = open >= 0 && text.length - open < MAX_SEQUENCE ? unfinished(text.slice(open)) : "";
  }

  /** What puts the terminal back; empty when there is nothing to undo. */
  undo(): string {
    const modes = [...this.#changed].map((mode) => `\u001b[?${mode}${USUALLY_ON.has(mode) ? "h" : "l"}`);
    return [this.#coloured ? "\u001b[0m" : "", this.#keypad ? "\u001b>" : "", ...modes].join("");
  }
}

// oxlint-disable-next-line no-control-regex
const unfinished = (text: string): string => (/^\u001b(\[[?0-9;]*)?$/.test(text) ? text : "");
