import {
  createHash,
  createHmac,
  diffieHellman,
  hkdfSync,
  timingSafeEqual,
  type KeyObject,
} from "node:crypto";

import { GodwitError } from "../../proto/contract/error.ts";
import { generateIdentity, KEY_BYTES, publicKeyFrom, type StreamIdentity } from "./identity.ts";

/**
 * How two agents agree on the keys of one image stream, in the manner of the Noise pattern KK: each knows the other's
 * static key beforehand (from the log, by way of its orders), both add an ephemeral one, and all four agreements go
 * into the keys. So only these two nodes can derive them; a stream that was recorded stays closed when a static key is
 * stolen later; and with a stolen key of its own a node cannot be fooled about who the other is.
 *
 * A hello carries a tag under a key from the static agreement alone, so nobody else can make either side settle on a
 * wrong ephemeral key. To repeat a recorded hello achieves nothing: it is bound to the migration, and the first one
 * counts.
 */
const LABEL = "godwit image stream 1";
const TAG_BYTES = 32;

export const HELLO_KIND = 0;
const HELLO_BYTES = 2 + KEY_BYTES + TAG_BYTES;

/** One end of a stream, and who the other has to be. */
export interface StreamEnds {
  readonly role: "source" | "target";
  readonly migration: string;
  readonly node: string;
  readonly identity: StreamIdentity;
  readonly peerNode: string;
  readonly peerKey: Uint8Array;
}

/** AES-256 keys, one a direction. */
export interface StreamKeys {
  readonly chunks: Uint8Array;
  readonly credits: Uint8Array;
}

export interface Hello {
  readonly keys: StreamKeys;
  /** The peer has this side's hello. */
  readonly confirmed: boolean;
}

export class Handshake {
  readonly #ends: StreamEnds;
  readonly #peerStatic: KeyObject;
  readonly #staticSecret: Buffer;
  readonly #context: Buffer;
  readonly #helloKey: Buffer;
  readonly #ephemeral = generateIdentity();
  #peerEphemeral: Uint8Array | undefined;
  #keys: StreamKeys | undefined;

  constructor(ends: StreamEnds) {
    this.#ends = ends;
    const source = ends.role === "source";
    try {
      this.#peerStatic = publicKeyFrom(ends.peerKey);
      this.#staticSecret = agree(ends.identity.privateKey, this.#peerStatic);
    } catch (cause) {
      throw new GodwitError(
        "refused",
        `the cluster knows no usable key of ${ends.peerNode}; is its agent of the same version?`,
        { cause },
      );
    }
    this.#context = digestOf(
      LABEL,
      ends.migration,
      ...inOrder(source, ends.node, ends.peerNode),
      ...inOrder(source, ends.identity.publicKey, ends.peerKey),
    );
    this.#helloKey = derive(this.#staticSecret, this.#context, "hello");
  }

  /** @param confirmed this side has the peer's */
  hello(confirmed: boolean): Uint8Array {
    const { publicKey } = this.#ephemeral;
    const head = Buffer.concat([Uint8Array.of(HELLO_KIND, confirmed ? 1 : 0), publicKey]);
    return Buffer.concat([head, this.#tag(this.#ends.role, head)]);
  }

  /** Undefined: not the peer's, or the peer's of another stream than the one agreed upon before. */
  hear(message: Uint8Array): Hello | undefined {
    if (message.byteLength !== HELLO_BYTES) return undefined;
    const head = message.subarray(0, HELLO_BYTES - TAG_BYTES);
    const tag = this.#tag(this.#ends.role === "source" ? "target" : "source", head);
    if (!timingSafeEqual(tag, message.subarray(HELLO_BYTES - TAG_BYTES))) return undefined;
    const ephemeral = Uint8Array.from(head.subarray(2));
    if (this.#peerEphemeral !== undefined && !timingSafeEqual(this.#peerEphemeral, ephemeral))
      return undefined;
    this.#peerEphemeral = ephemeral;
    this.#keys ??= this.#derive(ephemeral);
    return { keys: this.#keys, confirmed: head[1] === 1 };
  }

  #tag(role: StreamEnds["role"], head: Uint8Array): Buffer {
    return createHmac("sha256", this.#helloKey).update(role).update(head).digest();
  }

  #derive(peerEphemeral: Uint8Array): StreamKeys {
    const source = this.#ends.role === "source";
    const peer = publicKeyFrom(peerEphemeral);
    const secret = Buffer.concat([
      this.#staticSecret,
      agree(this.#ephemeral.privateKey, peer),
      ...inOrder(
        source,
        agree(this.#ephemeral.privateKey, this.#peerStatic),
        agree(this.#ends.identity.privateKey, peer),
      ),
    ]);
    const transcript = digestOf(this.#context, ...inOrder(source, this.#ephemeral.publicKey, peerEphemeral));
    return { chunks: derive(secret, transcript, "chunks"), credits: derive(secret, transcript, "credits") };
  }
}

/** What is the source's comes first on both sides. */
const inOrder = <T>(source: boolean, own: T, peers: T): [T, T] => (source ? [own, peers] : [peers, own]);

/** OpenSSL refuses what agrees on zero, that is, keys of low order. */
const agree = (privateKey: KeyObject, publicKey: KeyObject): Buffer =>
  diffieHellman({ privateKey, publicKey });

const derive = (secret: Uint8Array, salt: Uint8Array, info: string): Buffer =>
  Buffer.from(hkdfSync("sha256", secret, salt, `${LABEL} ${info}`, 32));

/** With each part's length in front, so that no two lists of parts are the same bytes. */
function digestOf(...parts: (string | Uint8Array)[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(Buffer.byteLength(part));
    hash.update(length).update(part);
  }
  return hash.digest();
}
