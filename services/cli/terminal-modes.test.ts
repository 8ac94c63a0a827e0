import { expect, test } from "vitest";
import { TerminalModes } from "./terminal-modes.ts";

const ESC = "\u001b";
test.each<[string, readonly string[], string]>([
  ["plain output", ["hello\r\n"], ""],
  ["an editor that is cut off", [`${ESC}[?1049h${ESC}[?25l${ESC}=text`], `${ESC}>${ESC}[?1049l${ESC}[?25h`],
  ["an editor that ends by itself", [`${ESC}[?1049h${ESC}[?25l`, `${ESC}[?25h${ESC}[?1049l`], ""],
  ["colours", [`${ESC}[1;31mred`], `${ESC}[0m`],
  ["colours that are taken back", [`${ESC}[31mred${ESC}[0m`, `${ESC}[32mgreen${ESC}[m`], ""],
  ["several modes at once", [`${ESC}[?1000;1006h`], `${ESC}[?1000l${ESC}[?1006l`],
  ["a sequence in two pieces", [`text${ESC}[?10`, `49h`], `${ESC}[?1049l`],
  ["one that is split after its first byte", [`text${ESC}`, `[?25l`], `${ESC}[?25h`],
  ["a piece that is no sequence", [`${ESC}[?10 and then`, `49h`], ""],
  ["what it does not know", [`${ESC}[?9999h${ESC}]0;title\u0007`], ""],
])("%s", (_, pieces, undo) => {
  const modes = new TerminalModes();
  for (const piece of pieces) modes.take(Buffer.from(piece));
  expect(modes.undo()).toBe(undo);
});
