import { randomBytes } from "node:crypto";
import { chmod, mkdir, open, readFile, readdir, rename, stat, unlink } from "node:fs/promises";
import { join } from "node:path";

import type { NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import type { Image, ImageLayer } from "../../proto/gen/godwit/v1/spec.ts";
import { removeTree } from "../layer/remove.ts";
import { syncFileSystem } from "../native/files.ts";
import { decompress, downloadObject } from "./download.ts";
import { SingleFlight } from "./single-flight.ts";
import { unpackLayer } from "./unpack.ts";

/** An image on this host, ready to be a container's root. */
interface ImageRoot {
  /** Top first, as overlayfs's `lowerdir=` wants them. */
  readonly lowerDirs: string[];
}

export interface ImageStore {
  /** Whether the image with this digest ("sha256:…") is unpacked here. */
  has(digest: string): Promise<boolean>;
  /** Digests of all images that are unpacked here. */
  list(): Promise<string[]>;
  /**
   * Fetches and unpacks what is missing; waits while NATS does not answer. Throws GodwitError: `not-found` if the
   * store lacks a layer, `corrupt`, `invalid`, `exhausted`, `unavailable` if the connection to NATS is closed.
   */
  ensure(image: Image, signal: AbortSignal): Promise<ImageRoot>;
  /**
   * Removes every image that is not in `keep`, and the layers that no other image has. `keep` must name the
   * images of all containers here: a layer that is mounted must not go.
   */
  prune(keep: ReadonlySet<string>): Promise<void>;
}

const DIGEST = /^sha256:([0-9a-f]{64})$/;
const HEX = /^[0-9a-f]{64}$/;
const HALF_MADE = ".tmp-";

function hexOf(digest: string): string {
  const hex = DIGEST.exec(digest)?.[1];
  if (hex === undefined) throw new GodwitError("invalid", `'${digest}' is not a SHA-256 digest`);
  return hex;
}

/**
 * Opens the store in `dir` and removes what a crash left half-made. Layers lie unpacked in
 * `layers/<hex of the diff id>/fs`, a name that appears only once the layer is complete and on the disk;
 * `images/<hex of the digest>.json` lists an image's layers, bottom first.
 */
export async function openImageStore(options: {
  readonly dir: string;
  readonly connection: NatsConnection;
  readonly logger: Logger;
}): Promise<ImageStore> {
  const store = new DiskImageStore(options.dir, options.connection, options.logger);
  await store.open();
  return store;
}

class DiskImageStore implements ImageStore {
  readonly #layersDir: string;
  readonly #imagesDir: string;
  readonly #connection: NatsConnection;
  readonly #logger: Logger;
  readonly #flights = new SingleFlight<void>();
  /** Layers that a running `ensure` counts on, with the number of those: not to be pruned. */
  readonly #pinned = new Map<string, number>();

  constructor(dir: string, connection: NatsConnection, logger: Logger) {
    this.#layersDir = join(dir, "layers");
    this.#imagesDir = join(dir, "images");
    this.#connection = connection;
    this.#logger = logger;
  }

  async open(): Promise<void> {
    for (const dir of [this.#layersDir, this.#imagesDir]) {
      await mkdir(dir, { recursive: true });
      // Images hold setuid programs: nobody but root may reach them.
      await chmod(dir, 0o700);
      for (const name of await readdir(dir)) {
        if (name.startsWith(HALF_MADE)) await removeTree(Buffer.from(join(dir, name)));
      }
    }
  }

  async has(digest: string): Promise<boolean> {
    const layers = await this.#readImage(hexOf(digest));
    return layers !== undefined && (await this.#allThere(layers));
  }

  async list(): Promise<string[]> {
    const digests: string[] = [];
    for (const hex of await this.#imageNames()) {
      const layers = await this.#readImage(hex);
      if (layers !== undefined && (await this.#allThere(layers))) digests.push(`sha256:${hex}`);
    }
    return digests;
  }

  async ensure(image: Image, signal: AbortSignal): Promise<ImageRoot> {
    const imageHex = hexOf(image.digest);
    if (image.layers.length === 0) throw new GodwitError("invalid", `the image ${image.name} has no layers`);
    const layers = image.layers.map((layer) => ({ layer, hex: hexOf(layer.diffId) }));
    for (const { hex } of layers) this.#pinned.set(hex, (this.#pinned.get(hex) ?? 0) + 1);
    try {
      for (const { layer, hex } of layers) {
        if (await this.#isThere(hex)) continue;
        await this.#flights.run(hex, signal, (shared) => this.#unpack(layer, hex, shared));
      }
      const names = layers.map(({ hex }) => hex);
      if ((await this.#readImage(imageHex))?.join() !== names.join()) await this.#writeImage(imageHex, names);
      // Overlayfs refuses a folder that is given twice; the topmost hides the others in full.
      const topFirst = [...new Set(names.toReversed())];
      return { lowerDirs: topFirst.map((hex) => this.#layerFolder(hex)) };
    } finally {
      for (const { hex } of layers) {
        const count = (this.#pinned.get(hex) ?? 1) - 1;
        if (count === 0) this.#pinned.delete(hex);
        else this.#pinned.set(hex, count);
      }
    }
  }

  async prune(keep: ReadonlySet<string>): Promise<void> {
    const used = new Set<string>();
    for (const hex of await this.#imageNames()) {
      if (keep.has(`sha256:${hex}`)) for (const layer of (await this.#readImage(hex)) ?? []) used.add(layer);
      else {
        await unlink(join(this.#imagesDir, `${hex}.json`));
        this.#logger.info({ image: `sha256:${hex}` }, "removed an image that nothing uses");
      }
    }
    for (const hex of await readdir(this.#layersDir)) {
      if (!HEX.test(hex) || used.has(hex) || this.#pinned.has(hex)) continue;
      // Renamed first: half a layer must not count as one after a crash.
      const doomed = join(this.#layersDir, `${HALF_MADE}${hex}-${randomBytes(4).toString("hex")}`);
      await rename(join(this.#layersDir, hex), doomed);
      await removeTree(Buffer.from(doomed));
      this.#logger.info({ layer: hex }, "removed an image layer that nothing uses");
    }
  }

  #layerFolder(hex: string): string {
    return join(this.#layersDir, hex, "fs");
  }

  async #isThere(hex: string): Promise<boolean> {
    return (await stat(this.#layerFolder(hex)).catch(absent)) !== undefined;
  }

  async #allThere(layers: readonly string[]): Promise<boolean> {
    for (const hex of layers) if (!(await this.#isThere(hex))) return false;
    return true;
  }

  async #unpack(layer: ImageLayer, hex: string, signal: AbortSignal): Promise<void> {
    const startedMs = performance.now();
    const made = join(this.#layersDir, `${HALF_MADE}${hex}-${randomBytes(4).toString("hex")}`);
    const folder = join(made, "fs");
    await mkdir(made, { mode: 0o700 });
    await mkdir(folder);
    // A layer that says nothing of the root folder gets what a root folder usually is, whatever the umask.
    await chmod(folder, 0o755);
    try {
      const tar = decompress(
        downloadObject({
          connection: this.#connection,
          object: layer.object,
          logger: this.#logger,
          signal,
        }),
      );
      const { entries, bytes } = await unpackLayer(folder, tar, layer.diffId, signal);
      await syncFolder(made, syncFileSystem);
      await rename(made, join(this.#layersDir, hex));
      await syncFolder(this.#layersDir);
      const tookMs = Math.round(performance.now() - startedMs);
      this.#logger.info({ layer: hex, entries, bytes, tookMs }, "unpacked an image layer");
    } catch (error) {
      await removeTree(Buffer.from(made));
      throw GodwitError.from(error);
    }
  }

  async #imageNames(): Promise<string[]> {
    const names = await readdir(this.#imagesDir);
    return names
      .filter((name) => name.endsWith(".json") && HEX.test(name.slice(0, -5)))
      .map((name) => name.slice(0, -5));
  }

  /** The image's layers, bottom first; undefined if it is not here or its file is not to be understood. */
  async #readImage(hex: string): Promise<string[] | undefined> {
    const text = await readFile(join(this.#imagesDir, `${hex}.json`), "utf8").catch(absent);
    if (text === undefined) return undefined;
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      return undefined; // ensure writes it again
    }
    const layers = (parsed as { layers?: unknown } | null)?.layers;
    const valid =
      Array.isArray(layers) && layers.every((layer) => typeof layer === "string" && HEX.test(layer));
    return valid ? (layers as string[]) : undefined;
  }

  async #writeImage(hex: string, layers: readonly string[]): Promise<void> {
    const made = join(this.#imagesDir, `${HALF_MADE}${hex}-${randomBytes(4).toString("hex")}`);
    const file = await open(made, "wx", 0o600);
    try {
      await file.writeFile(JSON.stringify({ layers }));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(made, join(this.#imagesDir, `${hex}.json`));
    await syncFolder(this.#imagesDir);
  }
}

function absent(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
}

/** Makes sure that the folder's names are on the disk; with syncFileSystem, that all of its content is. */
async function syncFolder(
  path: string,
  sync: (descriptor: number) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  const folder = await open(path, "r");
  try {
    await sync(folder.fd);
    await folder.sync();
  } finally {
    await folder.close();
  }
}
