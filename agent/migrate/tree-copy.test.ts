import { randomBytes } from "node:crypto";
import {
  appendFileSync,
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { RecordKind } from "../../proto/gen/godwit/v1/stream.ts";
import { applyDeletions, applyLayer } from "../layer/apply.ts";
import { decodePaths } from "../layer/paths.ts";
import { portrait, temporaryFolder } from "../layer/testing/tree.ts";
import { readRecords } from "../stream/records.ts";
import type { ImageSender } from "../stream/sender.ts";
import { RecordWriter } from "./record-writer.ts";
import { collect, layerBytes } from "./take-in.ts";
import { TreeCopy, type TreeState } from "./tree-copy.ts";

const signal = new AbortController().signal;
const nothing = (): Promise<void> => Promise.resolve();
const nobody = (): number[] => [];

interface Copy {
  readonly pieces: Uint8Array[];
  readonly bytes: number;
  readonly state: TreeState;
}

/** As a checkpoint copies it: while the container runs, which does `meanwhile`, and then frozen. */
async function copy(folder: string, base: TreeState | undefined, meanwhile: () => void): Promise<Copy> {
  const pieces: Uint8Array[] = [];
  const sender: ImageSender = {
    ...{ flush: nothing, drain: nothing, finish: nothing, [Symbol.asyncDispose]: nothing },
    ...{ hurry: () => undefined, abort: () => undefined, sentBytes: 0, rawBytes: 0, offersPages: false },
    write: (bytes) => {
      pieces.push(Buffer.from(bytes));
      return Promise.resolve();
    },
  };
  const writer = new RecordWriter(sender);
  const tree = new TreeCopy({ name: "", folder, place: "" }, writer, base, true);
  await tree.sendAll(nobody, signal);
  meanwhile();
  await tree.sendChange([], signal);
  await writer.end();
  return { pieces, bytes: pieces.reduce((sum, { byteLength }) => sum + byteLength, 0), state: tree.state };
}

async function apply({ pieces }: Copy, folder: string): Promise<void> {
  const iterator = readRecords((async function* () { yield* pieces; })())[Symbol.asyncIterator](); // prettier-ignore
  for (;;) {
    const next = await iterator.next();
    if (next.done === true) return;
    const { header, body } = next.value;
    if (header.kind === RecordKind.LAYER)
      await applyLayer(folder, layerBytes(body, header.length, iterator), { signal });
    if (header.kind === RecordKind.LAYER_DELETIONS)
      await applyDeletions(folder, decodePaths(await collect(body)));
  }
}

const MIB = 1024 * 1024;

test("each copy brings what differs from the one before, and all of them together what there is", async () => {
  await using temporary = await temporaryFolder();
  const [from, to] = [join(temporary.path, "from"), join(temporary.path, "to")];
  mkdirSync(from);
  mkdirSync(to);
  const at = (name: string): string => join(from, name);
  const write = (name: string, offset: number, bytes: Buffer): void => {
    const descriptor = openSync(at(name), "r+");
    writeSync(descriptor, bytes, 0, bytes.byteLength, offset);
    closeSync(descriptor);
  };
  mkdirSync(at("folder/deep"), { recursive: true });
  writeFileSync(at("folder/small"), "one");
  writeFileSync(at("folder/deep/other"), "same");
  writeFileSync(at("large"), randomBytes(8 * MIB));
  writeFileSync(at("linked"), "linked");
  linkSync(at("linked"), at("again"));
  const steps: readonly (readonly [name: string, mostBytes: number, before: () => void, meanwhile: () => void])[] =
    [
      ["everything", 9 * MIB, () => undefined, () => write("large", MIB, randomBytes(100))],
      ["a block of a large file", MIB, () => write("large", 5 * MIB, randomBytes(10)), () => undefined],
      [
        "blocks of what was changed while it stood still",
        MIB,
        () => write("large", MIB, randomBytes(10)),
        () => write("large", 2 * MIB, randomBytes(10)),
      ],
      [
        "deletions, and another large file of that name",
        4 * MIB,
        () => {
          rmSync(at("large"));
          rmSync(at("folder/deep"), { recursive: true });
        },
        () => writeFileSync(at("large"), randomBytes(3 * MIB)),
      ],
      ["a patch of the new one", MIB, () => write("large", 10, randomBytes(10)), () => truncateSync(at("large"), 2 * MIB)],
      [
        "names that change hands",
        4 * MIB,
        () => {
          renameSync(at("large"), at("renamed"));
          renameSync(at("folder/small"), at("large"));
          mkdirSync(at("folder/small"));
          appendFileSync(at("again"), " and more");
        },
        () => rmSync(at("linked")),
      ],
      ["a folder in place of a file", MIB, () => rmSync(at("again")), () => mkdirSync(at("again"))],
    ]; // prettier-ignore
  let state: TreeState | undefined;
  for (const [name, mostBytes, before, meanwhile] of steps) {
    before();
    const copied = await copy(from, state, meanwhile);
    await apply(copied, to);
    expect(portrait(to), name).toEqual(portrait(from));
    expect(copied.bytes, name).toBeLessThan(mostBytes);
    state = copied.state;
  }
});

test("a copy that came to nothing leaves what the next one builds upon as it was", async () => {
  await using temporary = await temporaryFolder();
  const [from, to] = [join(temporary.path, "from"), join(temporary.path, "to")];
  mkdirSync(from);
  mkdirSync(to);
  writeFileSync(join(from, "large"), randomBytes(2 * MIB));
  const whole = await copy(from, undefined, () => undefined);
  await apply(whole, to);
  writeFileSync(join(from, "new"), "x");
  rmSync(join(from, "large"));
  await copy(from, whole.state, () => undefined);
  await apply(await copy(from, whole.state, () => undefined), to);
  expect(portrait(to)).toEqual(portrait(from));
});
