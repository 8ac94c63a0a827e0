/** Image calls of the API. */
import type { Logger } from "pino";
import type {
  ImageInfo,
  ImportImageRequest,
  ListImagesResponse,
  RemoveImageRequest,
  RemoveImageResponse,
} from "../../../proto/gen/godwit/v1/api.ts";
import type { Image } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import type { Scheduler } from "../../../scheduler/mod.ts";
import { findImage } from "../find.ts";
import { importImage, type ImportSettings } from "../image/import.ts";
import { imageInfo, referencedLayers } from "../view/image.ts";

export class ImageService {
  readonly #scheduler: Scheduler;
  readonly #settings: ImportSettings;
  readonly #logger: Logger;

  constructor(scheduler: Scheduler, settings: ImportSettings) {
    this.#scheduler = scheduler;
    this.#settings = settings;
    this.#logger = settings.logger;
  }

  async import(requests: AsyncIterable<ImportImageRequest>, signal: AbortSignal): Promise<ImageInfo> {
    const parts = requests[Symbol.asyncIterator]();
    const first = await parts.next();
    if (first.done === true || first.value.part?.$case !== "header") {
      throw new GodwitError("invalid", "the first message of an import must be its header");
    }
    const header = first.value.part.value;
    async function* data(): AsyncGenerator<Buffer> {
      for (;;) {
        const next = await parts.next();
        if (next.done === true) return;
        if (next.value.part?.$case !== "data")
          throw new GodwitError("invalid", "after its header an import holds data and nothing else");
        yield next.value.part.value;
      }
    }
    const before = this.#layersOf(header.name);
    const image = await importImage(
      this.#settings,
      header,
      data(),
      (made) => this.#scheduler.addImage(made),
      signal,
    );
    // A name that stood for something else before has let go of those layers.
    await this.#collect(before);
    return this.#info(image);
  }

  async list(): Promise<ListImagesResponse> {
    const state = this.#scheduler.state();
    const images = Object.values(state.images).map((image) => imageInfo(state, image));
    return { images: images.sort((a, b) => (a.name < b.name ? -1 : 1)) };
  }

  async remove(request: RemoveImageRequest): Promise<RemoveImageResponse> {
    const { name } = findImage(this.#scheduler.state(), request.name);
    const layers = this.#layersOf(name);
    await this.#scheduler.removeImage(name);
    await this.#collect(layers);
    return {};
  }

  /**
   * Deletes layers that nothing needs any more, until the signal aborts: at first what a crash between two steps left
   * behind, then what the last container of a replaced image held.
   */
  async collectUnused(signal: AbortSignal): Promise<void> {
    const referenced = (): Set<string> => referencedLayers(this.#scheduler.state());
    const changes = this.#scheduler.changes(signal);
    let before = referenced();
    let swept = false;
    const sweep = async (): Promise<void> => {
      // Where another scheduler leads, it sweeps: this one may not know yet what was just imported there.
      if (swept || !this.#scheduler.leads) return;
      swept = true;
      try {
        await this.#scheduler.confirm();
        await this.#settings.ledger.sweep(referenced, this.#settings.nowMs());
      } catch (error) {
        this.#logger.warn({ err: error }, "the image store could not be swept; the next start does it");
      }
    };
    await sweep();
    for await (const _ of changes) {
      await sweep();
      const now = referenced();
      const released = [...before].filter((object) => !now.has(object));
      before = now;
      if (released.length > 0 && this.#scheduler.leads) await this.#collect(released);
    }
  }

  #layersOf(name: string): string[] {
    const { images } = this.#scheduler.state();
    const image = Object.hasOwn(images, name) ? images[name] : undefined;
    return image?.layers.map((layer) => layer.object) ?? [];
  }

  async #collect(candidates: readonly string[]): Promise<void> {
    try {
      await this.#scheduler.confirm();
      await this.#settings.ledger.collect(candidates, () => referencedLayers(this.#scheduler.state()));
    } catch (error) {
      // What was asked for is done and recorded; the space comes back with the next sweep.
      this.#logger.warn({ err: error }, "layers that are not needed any more could not be deleted");
    }
  }

  #info(image: Image): ImageInfo {
    const state = this.#scheduler.state();
    const recorded = Object.hasOwn(state.images, image.name) ? state.images[image.name] : undefined;
    return imageInfo(state, recorded ?? image);
  }
}
