import { extract as makeExtract, type Extract } from "tar-stream";

import { GodwitError } from "../../proto/contract/error.ts";
import { decodePax, type PaxRecords } from "./pax.ts";

/** What tar-stream decodes of a header; strings are byte strings (see paths.ts), PAX records already count. */
export interface TarHeader {
  readonly name: string;
  readonly size: number;
  readonly mode: number;
  readonly mtime: Date;
  /** null for what tar-stream does not know. */
  readonly type: string | null;
  readonly linkname: string | null;
  readonly uid: number;
  readonly gid: number;
  readonly devmajor: number;
  readonly devminor: number;
  readonly pax: PaxRecords | null;
}

export interface TarEntry {
  readonly header: TarHeader;
  /** To be consumed before the next member is asked for; the rest is skipped otherwise. */
  readonly body: AsyncIterable<Uint8Array>;
}

/** The part of tar-stream's Extract that decodes PAX and GNU headers, fed with a header's whole body. */
interface ExtractInternals {
  _header: TarHeader;
  _pax: PaxRecords | null;
  _paxGlobal: PaxRecords | null;
  _decodeLongHeader(body: Uint8Array): void;
}
const BaseExtract = makeExtract().constructor as unknown as new (options: {
  filenameEncoding: "latin1";
}) => Extract & ExtractInternals;

/**
 * tar-stream decodes PAX records as UTF-8, which destroys attributes that are binary (security.capability)
 * and names that are not UTF-8. This hook, which a test pins, keeps them as byte strings; plain headers
 * follow by `filenameEncoding`.
 */
class ByteExtract extends BaseExtract {
  override _decodeLongHeader(body: Uint8Array): void {
    if (this._header.type === "pax-header") {
      const own = decodePax(body);
      this._pax = this._paxGlobal === null ? own : Object.assign(Object.create(null), this._paxGlobal, own);
    } else if (this._header.type === "pax-global-header") {
      this._paxGlobal = decodePax(body);
    } else super._decodeLongHeader(body);
  }
}

/**
 * The members of a tar stream. Throws GodwitError `corrupt` for what is no tar or is cut short; errors of
 * the source pass through.
 */
export async function* readTar(
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<TarEntry, void, undefined> {
  const extract = new ByteExtract({ filenameEncoding: "latin1" });
  let sourceError: { readonly error: unknown } | undefined;
  /** tar-stream reports one failure in several guises, depending on who waits when it happens. */
  const translate = (error: unknown): unknown => {
    if (sourceError !== undefined) return sourceError.error;
    if (error instanceof GodwitError) return error;
    const reason =
      error instanceof Error && !/destroyed|close/i.test(error.message) ? `: ${error.message}` : "";
    return new GodwitError("corrupt", `the tar stream is damaged or cut short${reason}`, { cause: error });
  };
  async function* bodyOf(entry: AsyncIterable<unknown>): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for await (const piece of entry) yield piece as Uint8Array;
    } catch (error) {
      throw translate(error);
    }
  }
  void feed(source, extract, signal).catch((error: unknown) => {
    sourceError = { error };
    extract.destroy(GodwitError.from(error));
  });
  try {
    for await (const entry of extract) {
      yield { header: entry.header as unknown as TarHeader, body: bodyOf(entry) };
      for await (const skipped of entry) void skipped;
    }
  } catch (error) {
    throw translate(error);
  } finally {
    extract.destroy(null);
  }
  if (sourceError !== undefined) throw translate(undefined);
}

async function feed(source: AsyncIterable<Uint8Array>, extract: Extract, signal: AbortSignal): Promise<void> {
  for await (const piece of source) {
    signal.throwIfAborted();
    if (extract.destroyed) return;
    // No copy: pieces belong to whoever takes them, and tar-stream keeps slices of them.
    if (!extract.write(piece)) await roomOrEnd(extract);
    if (extract.destroyed) return;
  }
  extract.end(null);
}

function roomOrEnd(extract: Extract): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      extract.off("drain", done);
      extract.off("close", done);
      resolve();
    };
    extract.on("drain", done);
    extract.on("close", done);
  });
}
