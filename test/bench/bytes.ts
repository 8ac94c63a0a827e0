/**
 * npm run bench:bytes [-- --megabytes 96] [--moves 3]
 *
 * What a first move sends, beside what there is to send: the pages of the container's memory that are not zero, as one
 * zstd stream of level 3. A redis is filled with what the row says; each move goes to a host that holds nothing of it.
 * What is sent is all of it: pages, files, log and CRIU's own records. It asserts nothing.
 */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { once } from "node:events";
import { parseArgs } from "node:util";
import { constants, createZstdCompress } from "node:zlib";

import Table from "cli-table3";

import { type MoveRow, REDIS_COMMAND, TestCluster, until } from "../e2e/cluster.ts";
import { median } from "./statistics.ts";

const PAGE_BYTES = 4096;
const LEVEL = 3;
const ZERO = Buffer.alloc(PAGE_BYTES);
const MIB = 1024 * 1024;
/** Documentation/admin-guide/mm/pagemap.rst: present or swapped, and of a file or shared. */
const HAS_CONTENT = 0b11n << 62n;
const OF_FILE = 1n << 61n;

const { values } = parseArgs({
  options: { megabytes: { type: "string", default: "96" }, moves: { type: "string", default: "3" } },
});
const megabytes = Number(values.megabytes);
const moves = Number(values.moves);

/** Lua, each for so many values of some 4 KB. */
const CONTENTS: Readonly<Record<string, string>> = {
  "records of a table":
    'local t = {} for j = 1, 48 do t[j] = string.format(\'{"id":%d,"name":"user-%d","score":%.4f,"since":"2026-%02d-%02d"}\', i * 48 + j, math.random(100000), math.random(), math.random(12), math.random(28)) end return table.concat(t)',
  "random bytes":
    "local t = {} for j = 1, 512 do t[j] = string.char(math.random(0, 255), math.random(0, 255), math.random(0, 255), math.random(0, 255), math.random(0, 255), math.random(0, 255), math.random(0, 255), math.random(0, 255)) end return table.concat(t)",
  "one text over and over": 'return string.rep(string.format("%08d", i), 512)',
  zeros: "return string.rep(string.char(0), 4096)",
};
const fill = (content: string): string =>
  `local function value(i) ${content} end for i = 1, ${(megabytes * MIB) / PAGE_BYTES} do redis.call("set", "k" .. i, value(i)) end`;

interface Memory {
  readonly contentPages: number;
  readonly zeroPages: number;
  readonly zstdBytes: number;
}

/** Pages that are the processes' own, as CRIU takes them. */
async function memoryOf(pids: readonly number[]): Promise<Memory> {
  const zstd = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: LEVEL } });
  let zstdBytes = 0;
  zstd.on("data", (piece: Buffer) => (zstdBytes += piece.length));
  const ended = once(zstd, "end");
  let contentPages = 0;
  let zeroPages = 0;
  for (const pid of pids)
    for (const page of ownPages(pid)) {
      if (page.equals(ZERO)) zeroPages += 1;
      else {
        contentPages += 1;
        if (!zstd.write(Buffer.from(page))) await once(zstd, "drain");
      }
    }
  zstd.end();
  await ended;
  return { contentPages, zeroPages, zstdBytes };
}

function* ownPages(pid: number): Generator<Buffer> {
  const [memory, pagemap] = [openSync(`/proc/${pid}/mem`, "r"), openSync(`/proc/${pid}/pagemap`, "r")];
  const [page, entry] = [Buffer.alloc(PAGE_BYTES), Buffer.alloc(8)];
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").trim().split("\n")) {
      const [, from = "0", to = "0"] = /^([0-9a-f]+)-([0-9a-f]+) r/.exec(line) ?? [];
      if (/\[v(var|dso|syscall)/.test(line)) continue;
      for (let at = Number(`0x${from}`); at < Number(`0x${to}`); at += PAGE_BYTES) {
        if (readSync(pagemap, entry, 0, 8, (at / PAGE_BYTES) * 8) !== 8) continue;
        const bits = entry.readBigUInt64LE();
        if ((bits & HAS_CONTENT) === 0n || (bits & OF_FILE) !== 0n) continue;
        if (readSync(memory, page, 0, PAGE_BYTES, at) === PAGE_BYTES) yield page;
      }
    }
  } finally {
    closeSync(memory);
    closeSync(pagemap);
  }
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const mib = (bytes: number): string => (bytes / MIB).toFixed(1);

const table = new Table({
  head: ["filled with", "pages MiB", "zero MiB", "zstd MiB", "sent MiB", "sent / zstd", "worst of all moves"],
  colAligns: ["left", "right", "right", "right", "right", "right", "right"],
  style: { head: [], border: [] },
});
await using cluster = await TestCluster.start(2);
for (const [name, content] of Object.entries(CONTENTS)) {
  const rows: { readonly memory: Memory; readonly sentBytes: number }[] = [];
  for (let turn = 0; turn < moves; turn += 1) {
    await cluster.must("run", "--node", "n1", "--memory", "1g", "full", "redis", "--", ...REDIS_COMMAND);
    await until("redis to answer", async () => {
      const { code } = await cluster.cli(["exec", "full", "--", "redis-cli", "eval", fill(content), "0"]);
      return code === 0;
    });
    const { id } = await cluster.container("full");
    const memory = await memoryOf(cluster.processesOn("n1", id));
    const { sentBytes } = await cluster.json<MoveRow>("move", "full", "n2");
    rows.push({ memory, sentBytes });
    await cluster.must("rm", "--force", "full");
  }
  const ratios = rows.map(({ memory, sentBytes }) => sentBytes / memory.zstdBytes);
  const of = (figure: (row: (typeof rows)[number]) => number): string => mib(median(rows.map(figure)));
  table.push([
    name,
    of(({ memory }) => memory.contentPages * PAGE_BYTES),
    of(({ memory }) => memory.zeroPages * PAGE_BYTES),
    of(({ memory }) => memory.zstdBytes),
    of(({ sentBytes }) => sentBytes),
    median(ratios).toFixed(2),
    Math.max(...ratios).toFixed(2),
  ]);
  say(`${name}: ${median(ratios).toFixed(2)} times`);
}
say(table.toString());
