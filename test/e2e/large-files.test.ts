import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type MoveRow, TestCluster, until } from "./cluster.ts";

const FILE_MEGABYTES = 300;
const PLACES = 32;
/** So many 4 KiB blocks from one place to the next. */
const STRIDE = 2_311;
/** Writes its number into one place after the other, and then says so: what it has said, the file has. */
const WRITER = `
  i=0
  while [ ! -e /stop ]; do
    i=$((i + 1))
    printf '%016d' $i | dd of=/big bs=4096 seek=$((i % ${PLACES} * ${STRIDE})) conv=notrunc 2>/dev/null
    echo $i > /last.new && mv /last.new /last
    usleep 20000
  done
  touch /stopped
  exec sleep 1000000`;
const CLEAR = `
  for place in $(seq 0 ${PLACES - 1}); do
    dd if=/dev/zero of=/big bs=4096 count=1 seek=$((place * ${STRIDE})) conv=notrunc 2>/dev/null
  done`;
const READ = `
  for place in $(seq 0 ${PLACES - 1}); do
    dd if=/big bs=4096 count=1 skip=$((place * ${STRIDE})) 2>/dev/null | head -c 16; echo
  done`;

describe("a container that writes into a few places of a large file", () => {
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await TestCluster.start(2);
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });

  const shell = async (script: string): Promise<string> =>
    (await cluster.must("exec", "db", "--", "sh", "-c", script)).trim();

  test("moves them, and not the file a second time", async () => {
    await cluster.must(
      ...["run", "--node", "n1", "--memory", "512m", "db", "redis", "--", "sh", "-c"],
      `while [ ! -e /start ]; do usleep 20000; done; ${WRITER}`,
    );
    await shell(`dd if=/dev/urandom of=/big bs=1M count=${FILE_MEGABYTES} 2>/dev/null; ${CLEAR}`);
    const digest = await shell("sha256sum < /big");
    await shell("touch /start");
    await until("the first writes", async () => Number(await shell("cat /last")) > 2 * PLACES);

    const move = await cluster.json<MoveRow>("move", "db", "n2");
    expect(move.state).toBe("finished");
    // Once while it ran, and what has changed.
    expect(move.filesystemBytes).toBeGreaterThan(FILE_MEGABYTES * 1e6);
    expect(move.filesystemBytes).toBeLessThan(1.05 * FILE_MEGABYTES * 1024 * 1024);
    process.stdout.write(
      `beside the file itself ${((move.filesystemBytes - FILE_MEGABYTES * 1024 * 1024) / 1024).toFixed(0)} KiB, blackout ${move.blackoutMs.toFixed(0)} ms\n`,
    );

    const moved = Number(await shell("cat /last"));
    await until("writes after the move", async () => Number(await shell("cat /last")) > moved);
    await shell("touch /stop; while [ ! -e /stopped ]; do usleep 20000; done");
    const last = Number(await shell("cat /last"));
    const written = (await shell(READ)).split("\n").map(Number);
    const expected = Array.from({ length: PLACES }, (_, place) => last - ((last - place) % PLACES));
    expect(written).toEqual(expected);
    await shell(CLEAR);
    expect(await shell("sha256sum < /big")).toBe(digest);
  });
});
