import { pino } from "pino";
import { expect, test } from "vitest";
import { LayerLedger } from "./layer-ledger.ts";
import { MemoryLayers } from "./testing/memory-layers.ts";

const silent = pino({ level: "silent" });
const { signal } = new AbortController();
async function* bytes(): AsyncGenerator<Buffer> {
  yield Buffer.from("layer");
}

test("pinned and referenced layers stay, others go", async () => {
  const layers = new MemoryLayers();
  const ledger = new LayerLedger(layers, silent);
  const pins = ledger.pin(["a", "b"]);
  await ledger.store("a", bytes, signal);
  await ledger.store("b", bytes, signal);
  await ledger.store("a", bytes, signal);
  expect(layers.puts).toBe(2);
  expect(await ledger.collect(["a", "b"], () => new Set())).toEqual([]);
  pins[Symbol.dispose]();
  expect(await ledger.collect(["a", "b"], () => new Set(["a"]))).toEqual(["b"]);
  await expect(ledger.store("c", bytes, signal)).rejects.toThrow("without being pinned");
});

test("a layer that is being deleted is stored anew, not taken for there", async () => {
  const layers = new MemoryLayers();
  const ledger = new LayerLedger(layers, silent);
  layers.objects.set("a", Buffer.from("old"));
  const begun = Promise.withResolvers<void>();
  const deleting = Promise.withResolvers<void>();
  const remove = layers.delete.bind(layers);
  layers.delete = async (object) => {
    begun.resolve();
    await deleting.promise;
    await remove(object);
  };
  const collected = ledger.collect(["a"], () => new Set());
  await begun.promise;
  using _pins = ledger.pin(["a"]);
  const stored = ledger.store("a", bytes, signal);
  deleting.resolve();
  expect(await collected).toEqual(["a"]);
  await stored;
  expect(layers.objects.get("a")?.toString()).toBe("layer");
});

test("a sweep takes what is old and unreferenced only", async () => {
  const layers = new MemoryLayers();
  const ledger = new LayerLedger(layers, silent);
  for (const object of ["a", "b"]) layers.objects.set(object, Buffer.alloc(1));
  expect(await ledger.sweep(() => new Set(), 60_000)).toEqual([]);
  expect(await ledger.sweep(() => new Set(["a"]), 2 * 3_600_000)).toEqual(["b"]);
});
