/** A command as one text, as people write it, without a shell. Pure. */
import { GodwitError } from "../../proto/contract/error.ts";

const WORD_PART = /\s+|'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\])/gsy;
/** What a shell would make something of, and nobody else does. */
const FOR_A_SHELL = /[$`|&;<>*?()]/;

/** `ssh "my host" reboot` -> its words; quotes and backslashes as in a shell. */
export function commandWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let end = 0;
  for (const match of text.matchAll(WORD_PART)) {
    const [whole, single, double, escaped, plain] = match;
    end = match.index + whole.length;
    if (/^\s/.test(whole)) {
      if (word !== undefined) words.push(word);
      word = undefined;
      continue;
    }
    if (plain !== undefined && FOR_A_SHELL.test(plain))
      throw new GodwitError(
        "invalid",
        `${JSON.stringify(plain)} in --command means something to a shell only: add --shell, or put it in quotes`,
      );
    word = (word ?? "") + (single ?? double?.replace(/\\(.)/gs, "$1") ?? escaped ?? plain ?? "");
  }
  if (end < text.length)
    throw new GodwitError("invalid", `--command ends within quotes: ${JSON.stringify(text.slice(end))}`);
  if (word !== undefined) words.push(word);
  if (words.length === 0) throw new GodwitError("invalid", "--command is empty");
  return words;
}
