/** The image store: a JetStream object store that holds each layer once, compressed, under its content's digest. */
import { StorageType } from "@nats-io/jetstream";
import { Objm, type ObjectStore } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import { IMAGE_STORE } from "../../../proto/contract/subjects.ts";
import { GodwitError } from "../../../proto/contract/error.ts";

/** One message of the store each; below the server's smallest usual limit of 1 MiB. */
const CHUNK_BYTES = 512 * 1024;
const CHUNK_TIMEOUT_MS = 15_000;

export interface StoredLayer {
  readonly object: string;
  readonly modifiedMs: number;
}

export class LayerStore {
  readonly #objects: ObjectStore;

  private constructor(objects: ObjectStore) {
    this.#objects = objects;
  }

  static async open(connection: NatsConnection, replicas: number): Promise<LayerStore> {
    try {
      const options = { storage: StorageType.File, replicas, description: "layers of Godwit's images" };
      return new LayerStore(await new Objm(connection).create(IMAGE_STORE, options));
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
