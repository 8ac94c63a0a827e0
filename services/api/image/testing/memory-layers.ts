/** An image store in memory, for tests. */
import type { LayerObjects, StoredLayer } from "../layer-ledger.ts";

export class MemoryLayers implements LayerObjects {
  readonly objects = new Map<string, Buffer>();
  modifiedMs = 0;
  puts = 0;

  async has(object: string): Promise<boolean> {
    return this.objects.has(object);
  }
  async put(object: string, chunks: AsyncIterable<Buffer>): Promise<void> {
    this.puts += 1;
    const parts: Buffer[] = [];
    for await (const chunk of chunks) parts.push(chunk);
    this.objects.set(object, Buffer.concat(parts));
  }
  async delete(object: string): Promise<void> {
    this.objects.delete(object);
  }
  async list(): Promise<StoredLayer[]> {
    return [...this.objects.keys()].map((object) => ({ object, modifiedMs: this.modifiedMs }));
  }
  async deleteFragments(): Promise<number> {
    return 0;
  }
}
