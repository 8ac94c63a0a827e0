/** The image store: a JetStream object store that holds each layer once, compressed, under its content's digest. */
import { jetstreamManager, StorageType, type JetStreamManager } from "@nats-io/jetstream";
import { Objm, type ObjectStore } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import { IMAGE_STORE } from "../../../proto/contract/subjects.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { LayerObjects, StoredLayer } from "./layer-ledger.ts";

/** One message of the store each; below the server's smallest usual limit of 1 MiB. */
const CHUNK_BYTES = 512 * 1024;
const CHUNK_TIMEOUT_MS = 15_000;

/** How @nats-io/obj names the stream below a store, and the subjects of an object's pieces. */
const STREAM = `OBJ_${IMAGE_STORE}`;
const piecesSubject = (nuid: string): string => `$O.${IMAGE_STORE}.C.${nuid}`;

export class LayerStore implements LayerObjects {
  readonly #objects: ObjectStore;
  readonly #manager: JetStreamManager;

  private constructor(objects: ObjectStore, manager: JetStreamManager) {
    this.#objects = objects;
    this.#manager = manager;
  }

  static async open(connection: NatsConnection, replicas: number): Promise<LayerStore> {
    try {
      const options = { storage: StorageType.File, replicas, description: "layers of Godwit's images" };
      return new LayerStore(
        await new Objm(connection).create(IMAGE_STORE, options),
        await jetstreamManager(connection),
      );
    } catch (error) {
      throw new GodwitError("unavailable", `the image store cannot be opened: ${describe(error)}`, {
        cause: error,
      });
    }
  }

  async has(object: string): Promise<boolean> {
    const info = await this.#ask(() => this.#objects.info(object));
    return info !== null && !info.deleted;
  }

  /** Stores all of `chunks`; nothing is visible under `object` until the last one is in. */
  async put(object: string, chunks: AsyncIterable<Buffer>, signal: AbortSignal): Promise<void> {
    const state: { sourceError?: unknown } = {};
    async function* source(): AsyncGenerator<Buffer> {
      try {
        for await (const chunk of chunks) {
          signal.throwIfAborted();
          yield chunk;
        }
      } catch (error) {
        state.sourceError = error;
        throw error;
      }
    }
    const meta = { name: object, options: { max_chunk_size: CHUNK_BYTES } };
    try {
      await this.#objects.put(meta, ReadableStream.from<Uint8Array>(source()), { timeout: CHUNK_TIMEOUT_MS });
    } catch (error) {
      throw (
        state.sourceError ??
        new GodwitError("unavailable", `the image store did not take ${object}: ${describe(error)}`, {
          cause: error,
        })
      );
    }
  }

  async delete(object: string): Promise<void> {
    await this.#ask(() => this.#objects.delete(object));
  }

  async list(): Promise<StoredLayer[]> {
    const objects = await this.#ask(() => this.#objects.list());
    return objects.map((info) => ({ object: info.name, modifiedMs: Date.parse(info.mtime) }));
  }

  async deleteFragments(unchangedSinceMs: number): Promise<number> {
    return this.#ask(async () => {
      const whole = new Set((await this.#objects.list()).map((info) => piecesSubject(info.nuid)));
      const { state } = await this.#manager.streams.info(STREAM, { subjects_filter: piecesSubject("*") });
      let deleted = 0;
      for (const subject of Object.keys(state.subjects ?? {})) {
        if (whole.has(subject)) continue;
        const last = await this.#manager.streams.getMessage(STREAM, { last_by_subj: subject });
        if (last === null || last.time.getTime() >= unchangedSinceMs) continue;
        await this.#manager.streams.purge(STREAM, { filter: subject });
        deleted += 1;
      }
      return deleted;
    });
  }

  async #ask<T>(question: () => Promise<T>): Promise<T> {
    try {
      return await question();
    } catch (error) {
      throw new GodwitError("unavailable", `the image store does not answer: ${describe(error)}`, {
        cause: error,
      });
    }
  }
}

const describe = (error: unknown): string => (error instanceof Error ? error.message : String(error));
