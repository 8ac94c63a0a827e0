import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { closeSync, fsyncSync, openSync, renameSync, rmSync, statSync, writeSync } from "node:fs";

import { GodwitError } from "../../proto/contract/error.ts";
import { readSecret } from "../config.ts";

/** Of an X25519 public key. */
export const KEY_BYTES = 32;

/** The static key pair by which a node proves to another that it is the one that the cluster means. */
export interface StreamIdentity {
  readonly privateKey: KeyObject;
  readonly publicKey: Uint8Array;
}

export function generateIdentity(): StreamIdentity {
  return identityOf(generateKeyPairSync("x25519").privateKey);
}

/**
 * The node's own pair, made at the first start and kept beside the containers' data: whoever has that folder is the
 * node. It is on disk before it is used, as the cluster remembers the public key for good.
 */
export function loadIdentity(dataDir: string): StreamIdentity {
  const path = `${dataDir}/stream-key.pem`;
  if (statSync(path, { throwIfNoEntry: false }) === undefined) {
    const made = generateIdentity();
    store(dataDir, path, made.privateKey.export({ type: "pkcs8", format: "pem" }).toString());
    return made;
  }
  const pem = readSecret(path);
  try {
    const privateKey = createPrivateKey(pem);
    if (privateKey.asymmetricKeyType === "x25519") return identityOf(privateKey);
  } catch (cause) {
    throw new GodwitError("invalid", unusable(path), { cause });
  }
  throw new GodwitError("invalid", unusable(path));
}

const unusable = (path: string): string =>
  `${path} holds no X25519 key: restore it from a backup, or remove it and let the cluster trust a new one ("godwit node trust")`;

function store(folder: string, path: string, text: string): void {
  const fresh = `${path}.new`;
  rmSync(fresh, { force: true });
  const file = openSync(fresh, "wx", 0o600);
  try {
    writeSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(fresh, path);
  const directory = openSync(folder, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

const identityOf = (privateKey: KeyObject): StreamIdentity => ({
  privateKey,
  publicKey: rawPublicKey(createPublicKey(privateKey)),
});

export function rawPublicKey(key: KeyObject): Uint8Array {
  return Buffer.from(key.export({ format: "jwk" }).x ?? "", "base64url");
}

/** Throws GodwitError `invalid` for anything but 32 bytes. */
export function publicKeyFrom(raw: Uint8Array): KeyObject {
  if (raw.byteLength !== KEY_BYTES)
    throw new GodwitError("invalid", `a public key of ${raw.byteLength} bytes`);
  const x = Buffer.from(raw).toString("base64url");
  return createPublicKey({ key: { kty: "OKP", crv: "X25519", x }, format: "jwk" });
}
