/** A folder of plain files as a tar stream, the way an OCI layout is sent. */
import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { pack } from "tar-stream";

/** Symbolic links are followed: some tools fill a layout with links into a cache. */
export async function tarOfFolder(
  root: string,
): Promise<{ chunks: AsyncIterable<Buffer>; totalBytes: number }> {
  const files: { name: string; size: number }[] = [];
  for (const name of await readdir(root, { recursive: true })) {
    const found = await stat(join(root, name));
    if (found.isFile()) files.push({ name, size: found.size });
  }
  const blocks = (bytes: number): number => Math.ceil(bytes / 512) * 512;
  const totalBytes = files.reduce((sum, file) => sum + 512 + blocks(file.size), 1024);
  return { chunks: packed(root, files), totalBytes };
}

async function* packed(
  root: string,
  files: readonly { name: string; size: number }[],
): AsyncGenerator<Buffer> {
  const tar = pack();
  const filling = fill(tar, root, files);
  filling.catch((error: unknown) => tar.destroy(error instanceof Error ? error : new Error(String(error))));
  for await (const chunk of tar as AsyncIterable<Buffer>) yield chunk;
  await filling;
}

async function fill(
  tar: ReturnType<typeof pack>,
  root: string,
  files: readonly { name: string; size: number }[],
): Promise<void> {
  for (const { name, size } of files) {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const entry = tar.entry({ name, size }, (error) => (error == null ? resolve() : reject(error)));
    for await (const chunk of createReadStream(join(root, name)) as AsyncIterable<Buffer>) {
      if (entry.write(chunk)) continue;
      await untilDrained(entry);
    }
    entry.end(null);
    await promise;
  }
  tar.finalize();
}

async function untilDrained(entry: NodeJS.EventEmitter): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  entry.on("drain", resolve);
  entry.on("close", resolve);
  await promise;
  entry.off("drain", resolve);
  entry.off("close", resolve);
}
