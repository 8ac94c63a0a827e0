/**
 * An image archive on disk: told apart by what is in it, and read by entry. Whatever its format, it comes out as a
 * configuration and layers that can be read any number of times.
 */
import type { ImageConfig } from "../../../proto/gen/godwit/v1/spec.ts";
import { GodwitError } from "../../../proto/contract/error.ts";
import { compressionOf, decompress, MAGIC_BYTES } from "./decompress.ts";
import type { SpoolFile, SpoolFolder } from "./spool.ts";
import { walkTar } from "./tar-walk.ts";

export const FORMATS = ["auto", "tar", "docker-archive", "oci"] as const;
export type Format = (typeof FORMATS)[number];

export interface LayerSource {
  /** For errors and progress: "layer 2 of 5 (blobs/sha256/ab…)". */
  readonly where: string;
  /** "sha256:<hex>" of the uncompressed tar as the image's configuration promises it; absent for a plain tar. */
  readonly diffId?: string;
  /** Throws `corrupt` unless the stored bytes have the digest that they are named by. */
  readonly verify?: () => Promise<void>;
  /** The uncompressed tar, from its start at each call. */
  readonly open: () => AsyncIterable<Buffer>;
}
export interface ImageSource {
  readonly config: ImageConfig;
  readonly layers: readonly LayerSource[];
  /** As OCI names it; absent: the archive does not say. */
  readonly arch?: string;
}

interface IndexedFile {
  readonly offset: number;
  readonly sizeBytes: number;
  /** For a symbolic or hard link: where to, as it is written. */
  readonly linkTo?: { readonly path: string; readonly symbolic: boolean };
}

/** docker-archive and OCI layouts hold a few files for each layer; a root file system that holds more is not one. */
const MAX_INDEXED = 20_000;
/** No manifest or configuration is larger. */
const MAX_JSON_BYTES = 4 * 2 ** 20;

/** Finds files of an archive by name, without reading it again. */
export class ArchiveIndex {
  readonly #spool: SpoolFile;
  readonly #files = new Map<string, IndexedFile>();

  private constructor(spool: SpoolFile) {
    this.#spool = spool;
  }

  /** Reads all headers; throws when the archive is no tar or not a whole one. */
  static async read(spool: SpoolFile): Promise<ArchiveIndex> {
    await checkTarStart(spool);
    const index = new ArchiveIndex(spool);
    const wanted = new Set(["manifest.json", "oci-layout", "index.json"]);
    await walkTar(spool.read(), "the archive", (header) => {
      const path = normalised(header.name);
      if (index.#files.size >= MAX_INDEXED && !wanted.has(path)) return;
      if (header.type === "file" || header.type === "contiguous-file") {
        index.#files.set(path, { offset: header.byteOffset, sizeBytes: header.size });
      } else if (header.type === "symlink" || header.type === "link") {
        const linkTo = { path: header.linkname ?? "", symbolic: header.type === "symlink" };
        index.#files.set(path, { offset: 0, sizeBytes: 0, linkTo });
      }
    });
    await checkTarEnd(spool);
    return index;
  }

  has(path: string): boolean {
    return this.#find(path) !== undefined;
  }

  open(path: string): AsyncIterable<Buffer> {
    const file = this.#get(path);
    return this.#spool.read(file.offset, file.sizeBytes);
  }

  /** The bytes of a small file. */
  async bytes(path: string): Promise<Buffer> {
    const file = this.#get(path);
    if (file.sizeBytes > MAX_JSON_BYTES) {
      throw new GodwitError(
        "invalid",
        `${path} in the archive has ${file.sizeBytes} bytes; ${MAX_JSON_BYTES} is the most for a description`,
      );
    }
    return this.#spool.slice(file.offset, file.sizeBytes);
  }

  #get(path: string): IndexedFile {
    const file = this.#find(path);
    if (file === undefined)
      throw new GodwitError(
        "corrupt",
        `the archive names the file ${JSON.stringify(path)} but does not hold it`,
      );
    return file;
  }

  /** Follows links: older `docker save` writes a layer that two images share once and links to it. */
  #find(path: string): IndexedFile | undefined {
    let at = normalised(path);
    for (let hops = 0; hops < 8; hops += 1) {
      const file = this.#files.get(at);
      if (file?.linkTo === undefined) return file;
      const folder = file.linkTo.symbolic ? at.split("/").slice(0, -1) : [];
      at = resolved([...folder, ...file.linkTo.path.split("/")]);
    }
    return undefined;
  }
}

const normalised = (path: string): string => resolved(path.split("/"));
function resolved(components: readonly string[]): string {
  const out: string[] = [];
  for (const component of components) {
    if (component === "..") out.pop();
    else if (component !== "" && component !== ".") out.push(component);
  }
  return out.join("/");
}

/** The archive itself when it is a plain tar, else its uncompressed copy: entries are read by their offset. */
export async function uncompressed(
  spool: SpoolFile,
  folder: SpoolFolder,
  signal: AbortSignal,
): Promise<SpoolFile | undefined> {
  if (compressionOf(await spool.slice(0, MAGIC_BYTES)) === "none") return undefined;
  return folder.write(decompress(spool.read(), "the archive"), "the uncompressed archive", signal);
}

/** Throws `invalid` unless `spool` begins like a tar archive. */
async function checkTarStart(spool: SpoolFile): Promise<void> {
  if (spool.sizeBytes === 0) throw new GodwitError("invalid", "the archive is empty");
  const magic = (await spool.slice(257, 5)).toString("latin1");
  if (magic === "ustar") return;
  throw new GodwitError(
    "invalid",
    "the file is neither a tar archive nor one compressed with gzip or zstd; give a root file system tar, a docker-archive or an OCI layout",
  );
}

/** Two blocks of zeros end a tar. Without this, one that was cut exactly between two entries would pass as whole. */
async function checkTarEnd(spool: SpoolFile): Promise<void> {
  const tail = await spool.slice(Math.max(0, spool.sizeBytes - 512), 512);
  if (tail.length === 512 && tail.every((byte) => byte === 0)) return;
  throw new GodwitError(
    "corrupt",
    `the archive is cut short: it does not end with the zeros that end a tar (${spool.sizeBytes} bytes were received)`,
  );
}

export function detectFormat(index: ArchiveIndex): Exclude<Format, "auto"> {
  if (index.has("oci-layout") && index.has("index.json")) return "oci";
  if (index.has("manifest.json")) return "docker-archive";
  return "tar";
}
