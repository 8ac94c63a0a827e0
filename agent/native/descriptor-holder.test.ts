import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { createInterface } from "node:readline";

import { expect, test } from "vitest";

import { openPacketPair, receivePacket, sendPacket } from "./sockets.ts";

/** Says who holds, opens nothing more, and waits for its end. */
const PROGRAM = `
  import { holdDescriptors } from "${new URL("descriptor-holder.ts", import.meta.url).href}";
  process.stdout.write(holdDescriptors() + "\\n");
  setInterval(() => undefined, 1000);
`;

test("what a process that was killed had open is closed when its holder is ended", async () => {
  const [ours, theirs] = openPacketPair();
  const child = spawn(process.execPath, ["--input-type=module", "--eval", PROGRAM], {
    stdio: ["ignore", "pipe", "inherit", theirs],
  });
  closeSync(theirs);
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
  const [line] = (await once(lines, "line")) as [string];
  const holder = Number(line);
  try {
    child.kill("SIGKILL");
    await once(child, "exit");
    // Into a socket whose other end is closed it would fail.
    sendPacket(ours, Uint8Array.of(1));
  } finally {
    process.kill(holder, "SIGKILL");
  }
  // Only now is the other end closed, with what was sent unread.
  await expect(receivePacket(ours, 1)).rejects.toThrow(`errno ${constants.errno.ECONNRESET}`);
  closeSync(ours);
});
