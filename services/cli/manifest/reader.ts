/** Reads a mapping of a YAML document key by key, and reports what is not as it should be where it stands. */
import {
  isAlias,
  isMap,
  isPair,
  isScalar,
  isSeq,
  type Document,
  type Node,
  type Pair,
  type YAMLMap,
} from "yaml";
import { GodwitError } from "../../../proto/contract/error.ts";
import { parseBytes, parseCpuMillis, parseDurationMs } from "../quantity.ts";
import { unknownKey, type Source } from "./source.ts";
import { formatList } from "./suggest.ts";

/** The value is not what is expected there; says what was found. */
export class Mismatch extends Error {
  override readonly name = "Mismatch";
  readonly node: Node | undefined;

  constructor(message: string, node?: Node) {
    super(message);
    this.node = node;
  }
}

const offsetOf = (node: Node | null | undefined, otherwise: number): number => node?.range?.[0] ?? otherwise;

const shown = (node: Node): string => {
  if (isMap(node)) return "a mapping";
  if (isSeq(node)) return "a list";
  if (!isScalar(node)) return "something else";
  if (node.value === null) return "nothing";
  const text = node.source ?? "";
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
};

/** A scalar as it was written, so that `8080`, `yes` and `0x10` are what they look like. */
const textOf = (node: Node): string => {
  if (!isScalar(node) || node.value === null) throw new Mismatch(`found ${shown(node)}`, node);
  return typeof node.value === "string" ? node.value : (node.source ?? "");
};

const wholeNumber = (node: Node, least: number, most: number): number => {
  const text = textOf(node);
  const value = Number(text);
  if (!/^[0-9]+$/.test(text) || value < least || value > most)
    throw new Mismatch(`found ${shown(node)}`, node);
  return value;
};

/** What a parser of the command line's says of a text, as a mismatch. */
const parsed = <T>(node: Node, parse: (text: string) => T): T => {
  try {
    return parse(textOf(node));
  } catch (error) {
    if (error instanceof GodwitError) throw new Mismatch(`found ${shown(node)}`, node);
    throw error;
  }
};

export class MapReader {
  readonly #source: Source;
  readonly #document: Document.Parsed;
  readonly #pairs = new Map<string, { readonly key: Node; readonly value: Node | null }>();
  readonly #known: string[] = [];
  /** Of its first character. */
  readonly offset: number;

  constructor(source: Source, document: Document.Parsed, map: YAMLMap) {
    this.#source = source;
    this.#document = document;
    this.offset = offsetOf(map, 0);
    for (const pair of map.items as Pair<Node, Node | null>[]) {
      if (!isPair(pair)) continue;
      if (isScalar(pair.key)) this.#pairs.set(String(pair.key.value), { key: pair.key, value: pair.value });
      else source.report(offsetOf(pair.key, this.offset), "a key has to be a word");
    }
  }

  has(key: string): boolean {
    return this.#pairs.has(key);
  }

  /** Where the key stands, or the mapping if it is not there. */
  offsetOf(key: string): number {
    return offsetOf(this.#pairs.get(key)?.key, this.offset);
  }

  report(key: string, message: string): void {
    this.#source.report(this.offsetOf(key), message);
  }

  /** Undefined: it is not there, or not as expected, which has been reported. */
  value<T>(key: string, expected: string, convert: (node: Node) => T): T | undefined {
    this.#known.push(key);
    const pair = this.#pairs.get(key);
    if (pair === undefined) return undefined;
    try {
      const node = this.#resolve(pair.value);
      if (node === undefined) throw new Mismatch("found nothing");
      return convert(node);
    } catch (error) {
      if (!(error instanceof Mismatch)) throw error;
      const at = offsetOf(error.node ?? pair.value, offsetOf(pair.key, this.offset));
      this.#source.report(at, `${key}: expected ${expected}, ${error.message}`);
      return undefined;
    }
  }

  /** What the alias stands for. */
  #resolve(node: Node | null): Node | undefined {
    if (!isAlias(node)) return node ?? undefined;
    const target = node.resolve(this.#document);
    if (target === undefined)
      throw new Mismatch(`found *${node.source}, which stands for nothing in this document`, node);
    return target;
  }

  text(key: string, expected = "a text"): string | undefined {
    return this.value(key, expected, textOf);
  }
  count(key: string, what: string, least = 0, most = 2 ** 31 - 1): number | undefined {
    const expected = `${what}, a whole number from ${least}${most === 2 ** 31 - 1 ? "" : ` to ${most}`}`;
    return this.value(key, expected, (node) => wholeNumber(node, least, most));
  }
  flag(key: string): boolean | undefined {
    return this.value(key, "true or false", (node) => {
      if (!isScalar(node) || typeof node.value !== "boolean")
        throw new Mismatch(`found ${shown(node)}`, node);
      return node.value;
    });
  }
  durationMs(key: string): number | undefined {
    return this.value(key, "a duration such as 300ms, 45s, 2m or 1h30m", (node) =>
      parsed(node, parseDurationMs),
    );
  }
  bytes(key: string): number | undefined {
    return this.value(key, "a size such as 256m or 1g", (node) => parsed(node, parseBytes));
  }
  cpuMillis(key: string): number | undefined {
    return this.value(key, "a number of cpus such as 0.5 or 2", (node) => parsed(node, parseCpuMillis));
  }
  choice<T extends string>(key: string, words: { readonly [word: string]: T }): T | undefined {
    const all = Object.keys(words);
    return this.value(key, all.join(", ").replace(/, ([^,]*)$/, " or $1"), (node) => {
      const word = textOf(node);
      const found = Object.hasOwn(words, word) ? words[word] : undefined;
      if (found !== undefined) return found;
      const { nearest } = formatList(word, all);
      throw new Mismatch(
        `found ${shown(node)}${nearest === undefined ? "" : ` (did you mean ${nearest}?)`}`,
        node,
      );
    });
  }
  texts(key: string, expected = 'a list of texts such as ["sh", "-c", "date"]'): string[] | undefined {
    return this.value(key, expected, (node) => this.#textsOf(node));
  }
  /** A list of texts, each taken in by a parser of the command line's. */
  parsedList<T>(
    key: string,
    expected: string,
    add: (text: string, before: readonly T[]) => T[],
  ): T[] | undefined {
    return this.value(key, expected, (node) => {
      if (!isSeq(node)) throw new Mismatch(`found ${shown(node)}`, node);
      let list: T[] = [];
      for (const item of node.items as (Node | null)[]) {
        const resolved = this.#resolve(item);
        if (resolved === undefined) throw new Mismatch("found nothing in it", node);
        list = parsed(resolved, (text) => add(text, list));
      }
      return list;
    });
  }
  /** What a parser of the command line's makes of it. */
  parsed<T>(key: string, expected: string, parse: (text: string) => T): T | undefined {
    return this.value(key, expected, (node) => parsed(node, parse));
  }
  /** A text, or a list of them. */
  textOrTexts(key: string, expected: string): string | string[] | undefined {
    return this.value(key, expected, (node) => (isSeq(node) ? this.#textsOf(node) : textOf(node)));
  }
  #textsOf(node: Node): string[] {
    if (!isSeq(node)) throw new Mismatch(`found ${shown(node)}`, node);
    return (node.items as (Node | null)[]).map((item) => {
      const resolved = this.#resolve(item);
      if (resolved === undefined) throw new Mismatch("found nothing in it", node);
      return textOf(resolved);
    });
  }
  /** NAME: VALUE pairs. */
  assignments(key: string): { [name: string]: string } | undefined {
    return this.value(key, "a mapping of names to texts", (node) => {
      if (!isMap(node)) throw new Mismatch(`found ${shown(node)}`, node);
      const pairs = (node.items as Pair<Node, Node | null>[]).map(
        ({ key: name, value }): [string, string] => {
          const resolved = this.#resolve(value);
          if (!isScalar(name)) throw new Mismatch("found a name that is no word", name);
          if (resolved === undefined || (isScalar(resolved) && resolved.value === null))
            throw new Mismatch(
              `found nothing for ${textOf(name)} (write "" for an empty text)`,
              resolved ?? name,
            );
          return [textOf(name), textOf(resolved)];
        },
      );
      return Object.fromEntries(pairs);
    });
  }

  /** What `read` makes of the mapping under the key; keys that it does not ask for are reported. */
  within<T>(key: string, expected: string, read: (map: MapReader) => T): T | undefined {
    return this.value(key, expected, (node) => this.#mapOf(node, read));
  }
  /** The same with a word in its place. */
  wordOrWithin<T>(
    key: string,
    expected: string,
    word: (text: string, mismatch: () => Mismatch) => T,
    read: (map: MapReader) => T,
  ): T | undefined {
    return this.value(key, expected, (node) =>
      isMap(node)
        ? this.#mapOf(node, read)
        : word(textOf(node), () => new Mismatch(`found ${shown(node)}`, node)),
    );
  }
  /** A list of mappings. */
  each<T>(key: string, expected: string, read: (map: MapReader) => T): T[] | undefined {
    return this.value(key, expected, (node) => {
      if (!isSeq(node)) throw new Mismatch(`found ${shown(node)}`, node);
      return (node.items as (Node | null)[]).map((item) => {
        const resolved = this.#resolve(item);
        if (resolved === undefined) throw new Mismatch("found nothing in it", node);
        return this.#mapOf(resolved, read);
      });
    });
  }
  #mapOf<T>(node: Node, read: (map: MapReader) => T): T {
    if (!isMap(node)) throw new Mismatch(`found ${shown(node)}`, node);
    const map = new MapReader(this.#source, this.#document, node);
    const result = read(map);
    map.finish();
    return result;
  }

  /** Reports every key that nobody has asked for. */
  finish(): void {
    for (const [key, { key: node }] of this.#pairs)
      if (!this.#known.includes(key))
        this.#source.report(offsetOf(node, this.offset), unknownKey(key, this.#known));
  }

  /** Reports that the key is missing, where it is. */
  require(key: string, what: string): void {
    if (!this.has(key)) this.#source.report(this.offset, `"${key}" is missing: ${what}`);
  }
}
