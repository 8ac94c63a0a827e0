/**
 * Which tar entries a layer may hold. Layers are unpacked as root on every host, so an archive must not be
 * able to reach anything outside of the container's own root. Pure: headers in, a refusal or nothing out.
 */
import { GodwitError } from "../../../proto/contract/error.ts";
import type { TarHeader } from "./tar-walk.ts";

export interface TarLimits {
  readonly maxEntries: number;
  readonly maxSymlinks: number;
  /** Of the layer's files together, uncompressed. */
  readonly maxBytes: number;
}
/** Paths are kept only for symbolic links, so these bound the memory that an archive can make us use. */
const DEFAULT_TAR_LIMITS: TarLimits = {
  maxEntries: 2_000_000,
  maxSymlinks: 500_000,
  maxBytes: 64 * 2 ** 30,
};

type TarEntry = Omit<TarHeader, "byteOffset">;

const MAX_PATH_BYTES = 4096;
const WHITEOUT = ".wh.";
const KNOWN_TYPES: ReadonlySet<string> = new Set([
  "file",
  "contiguous-file",
  "link",
  "symlink",
  "directory",
  "fifo",
]);
const shown = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name);

/** The path's components from the root, or a refusal. `what` is "entry" or "hard link target". */
export function componentsOf(path: string, what: string): string[] {
  const refuse = (why: string): never => {
    throw new GodwitError("invalid", `${what} ${shown(path)} ${why}`);
  };
  if (path === "") refuse("has an empty path");
  if (path.includes("\0")) refuse("has a NUL in its path");
  if (path.startsWith("/")) refuse("has an absolute path; paths must be relative to the root file system");
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) refuse(`has a path longer than ${MAX_PATH_BYTES} bytes`);
  const components = path.split("/").filter((component) => component !== "" && component !== ".");
  if (components.includes("..")) refuse("has '..' in its path and could lead out of the root");
  return components;
}

export class TarPolicy {
  readonly #limits: TarLimits;
  /** Paths that are symbolic links in this layer. A later entry never takes one away: unpackers differ in that. */
  readonly #symlinks = new Set<string>();
  #entries = 0;
  #bytes = 0;

  constructor(limits: TarLimits = DEFAULT_TAR_LIMITS) {
    this.#limits = limits;
  }

  get entries(): number {
    return this.#entries;
  }

  /** Takes one header in; throws `invalid` with the entry's name and what is wrong with it. */
  check(header: TarEntry): void {
    this.#entries += 1;
    if (this.#entries > this.#limits.maxEntries)
      throw new GodwitError("invalid", `it holds more than ${this.#limits.maxEntries} entries`);
    const refuse = (why: string): never => {
      throw new GodwitError("invalid", `entry ${shown(header.name)} ${why}`);
    };
    const components = componentsOf(header.name, "entry");
    const path = components.join("/");
    this.#refuseLinkedParent(components, "entry", header.name);
    this.#checkPax(header, refuse);

    const type = typeOf(header);
    if (type === "character-device" || type === "block-device") {
      refuse(
        "is a device node; images hold none, /dev is made by the runtime (pack it with --exclude='./dev/*')",
      );
    }
    if (!KNOWN_TYPES.has(type))
      refuse("is of a type that is not supported (sparse, multi-volume or unknown)");
    const bytes = header.size;
    if (type !== "file" && type !== "contiguous-file" && bytes !== 0)
      refuse(`is a ${type} with ${bytes} bytes of content`);
    if (!Number.isSafeInteger(bytes) || bytes < 0) refuse("has a size that is not a number");
    this.#bytes += bytes;
    if (this.#bytes > this.#limits.maxBytes)
      refuse(`takes the layer over the limit of ${this.#limits.maxBytes} bytes`);
    if (path === "" && type !== "directory") refuse("would replace the root itself");
    checkWhiteout(components, type, refuse);

    if (type === "symlink") {
      if ((header.linkname ?? "") === "") refuse("is a symbolic link to nothing");
      if (header.linkname?.includes("\0") === true) refuse("has a NUL in its link");
      this.#addSymlink(path);
    }
    if (type === "link") {
      const target = componentsOf(
        header.linkname ?? "",
        `entry ${shown(header.name)} is a hard link; its target`,
      );
      this.#refuseLinkedParent(target, `hard link ${shown(header.name)} to`, header.linkname ?? "");
      // A second name of a symbolic link is one as well.
      if (this.#symlinks.has(target.join("/"))) this.#addSymlink(path);
    }
  }

  #addSymlink(path: string): void {
    this.#symlinks.add(path);
    if (this.#symlinks.size > this.#limits.maxSymlinks) {
      throw new GodwitError("invalid", `it holds more than ${this.#limits.maxSymlinks} symbolic links`);
    }
  }

  #refuseLinkedParent(components: readonly string[], what: string, name: string): void {
    let parent = "";
    for (const component of components.slice(0, -1)) {
      parent = parent === "" ? component : `${parent}/${component}`;
      if (this.#symlinks.has(parent)) {
        throw new GodwitError(
          "invalid",
          `${what} ${shown(name)} lies below ${shown(parent)}, a symbolic link of the same layer, and could lead out of the root`,
        );
      }
    }
  }

  #checkPax(header: TarEntry, refuse: (why: string) => never): void {
    for (const key of Object.keys(header.pax ?? {})) {
      if (key.startsWith("GNU.sparse.")) refuse("is stored sparse; pack it without --sparse");
      // Set on a lower directory these would tell overlayfs to look somewhere else.
      if (/^(SCHILY|LIBARCHIVE)\.xattr\.(trusted|user)\.overlay\./.test(key))
        refuse("carries overlayfs's own attributes");
    }
  }
}

/** Old archives mark a directory by a trailing slash alone. */
function typeOf(header: TarEntry): string {
  const type = header.type ?? "unknown";
  return type === "file" && header.name.endsWith("/") ? "directory" : type;
}

function checkWhiteout(components: readonly string[], type: string, refuse: (why: string) => never): void {
  if (components.slice(0, -1).some((component) => component.startsWith(WHITEOUT)))
    refuse("lies below a whiteout");
  const last = components.at(-1);
  if (last?.startsWith(WHITEOUT) !== true) return;
  if (["", ".", ".."].includes(last.slice(WHITEOUT.length)))
    refuse("is a whiteout of nothing below its own folder");
  if (type !== "file" && type !== "link") refuse(`is a whiteout and must be an empty file, not a ${type}`);
}
