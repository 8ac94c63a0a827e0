/** Which of the known words somebody may have meant. Pure. */

/** Edits (insert, delete, replace, swap of neighbours) that make one word the other; Levenshtein's, restricted swaps. */
const distance = (a: string, b: string): number => {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] ?? 0) + 1);
      row.push(best);
    }
    before = last;
    last = row;
  }
  return last[b.length] ?? 0;
};

const MAX_WORD = 64;

export const nearestWord = (word: string, known: readonly string[]): string | undefined => {
  if (word.length > MAX_WORD) return undefined;
  const plain = (text: string): string => text.toLowerCase().replaceAll(/[-_ ]/g, "");
  const ranked = known
    .map((one) => ({ one, far: distance(plain(word), plain(one)) }))
    .toSorted((a, b) => a.far - b.far || (a.one < b.one ? -1 : 1));
  const [best] = ranked;
  return best !== undefined && best.far <= Math.max(1, Math.floor(word.length / 3)) ? best.one : undefined;
};

export const formatList = (
  word: string,
  known: readonly string[],
): { readonly nearest: string | undefined; readonly all: string } => ({
  nearest: nearestWord(word, known),
  all: known.length === 0 ? "none" : known.join(", "),
});
