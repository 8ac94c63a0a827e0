import { expect, test } from "vitest";

import { commandWords } from "./command-words.ts";

test.each([
  ["reboot", ["reboot"]],
  ["  ssh  root@{node}   reboot ", ["ssh", "root@{node}", "reboot"]],
  [`echo 'a b' "c \\"d\\"" e\\ f`, ["echo", "a b", 'c "d"', "e f"]],
  ["echo ''", ["echo", ""]],
  ["echo pre'fix x'post", ["echo", "prefix xpost"]],
  ["echo '$HOME | x'", ["echo", "$HOME | x"]],
])("%s", (text, words) => {
  expect(commandWords(text)).toEqual(words);
});

test.each([
  ["", /is empty/],
  ["echo 'a", /ends within quotes/],
  ['echo "a', /ends within quotes/],
  ["ssh $GODWIT_NODE reboot", /add --shell/],
  ["a | b", /add --shell/],
])("%s is refused", (text, why) => {
  expect(() => commandWords(text)).toThrow(why);
});
