/** Reads a tar's headers one by one, throwing the contents away. */
import { extract } from "tar-stream";
import { GodwitError } from "../../../proto/contract/error.ts";

/** A header as the parser really gives it out: its type description promises more and leaves `byteOffset` out. */
export interface TarHeader {
  readonly name: string;
  /** null: a type flag that it does not know. */
  readonly type: string | null;
  /** NaN when the field does not hold a number. */
  readonly size: number;
  readonly linkname: string | null;
  readonly pax: Readonly<Record<string, string>> | null;
  /** Where the entry's contents begin in the archive. */
  readonly byteOffset: number;
}

/**
 * Calls `visit` for each entry. Throws what `visit` throws, prefixed with `where`; `corrupt` when the archive is
 * damaged or cut short, naming the last entry that was read.
 */
export async function walkTar(
  chunks: AsyncIterable<Buffer>,
  where: string,
  visit: (header: TarHeader) => void,
): Promise<void> {
  const parser = extract();
  const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>();
  const state: { refusal?: GodwitError; damage?: Error; last: string } = { last: "" };
  const failed = (): boolean => state.refusal !== undefined || state.damage !== undefined;
  parser.on("error", (error: Error) => {
    state.damage ??= error;
  });
  parser.on("close", () => onClosed());
  parser.on("entry", (described, stream, next) => {
    const header = described as unknown as TarHeader;
    // It fails with its parser, which tells by itself.
    stream.on("error", () => undefined);
    try {
      visit(header);
    } catch (error) {
      state.refusal ??= GodwitError.from(error);
      next(state.refusal);
      return;
    }
    state.last = header.name;
    stream.on("end", () => next());
    stream.resume();
  });
  try {
    for await (const chunk of chunks) {
      if (failed()) break;
      if (parser.write(chunk)) continue;
      const { promise: drained, resolve } = Promise.withResolvers<void>();
      const onDrain = (): void => resolve();
      parser.once("drain", onDrain);
      await Promise.race([drained, closed]);
      parser.off("drain", onDrain);
    }
    if (failed()) parser.destroy();
    else parser.end(null);
    await closed;
  } finally {
    parser.destroy();
  }
  const { refusal, damage, last } = state;
  if (refusal !== undefined)
    throw new GodwitError(refusal.code, `${where}: ${refusal.message}`, { cause: refusal });
  if (damage === undefined) return;
  const place = last === "" ? "at its very beginning" : `after entry ${JSON.stringify(last)}`;
  const cut = /unexpected end/i.test(damage.message);
  const why = cut ? "it is cut short" : `it is not a whole tar archive (${damage.message})`;
  throw new GodwitError("corrupt", `${where}: ${why} ${place}`, { cause: damage });
}
