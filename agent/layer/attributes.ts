import { getAttribute, listAttributes, removeAttribute, setAttribute } from "../native/files.ts";
import { GodwitError } from "../../proto/contract/error.ts";

/** Extended attributes by name; names are byte strings. */
export type Attributes = ReadonlyMap<string, Buffer>;

export const OPAQUE_ATTRIBUTE = "trusted.overlay.opaque";

/**
 * Attributes of overlayfs that mean something on their own host only: file handles of lower files
 * (origin, upper), counts against them (nlink), the mount's id, and a hint that any of those are there.
 */
const LOCAL_OVERLAY = new Set(
  ["origin", "upper", "nlink", "uuid", "impure"].map((name) => `trusted.overlay.${name}`),
);
const KEPT = new Set(["security.capability", "system.posix_acl_access", "system.posix_acl_default"]);

/** Labels and signatures (security.selinux, .ima, .evm) belong to the host's policy, not to the file. */
export function isPortable(name: string): boolean {
  if (LOCAL_OVERLAY.has(name)) return false;
  return name.startsWith("trusted.") || name.startsWith("user.") || KEPT.has(name);
}

export function readAttributes(path: Buffer): Attributes {
  const attributes = new Map<string, Buffer>();
  for (const name of listAttributes(path)) {
    if (!isPortable(name)) continue;
    const value = getAttribute(path, name);
    if (value !== undefined) attributes.set(name, value);
  }
  return attributes;
}

/** Gives `path` exactly these portable attributes. `fresh`: it has none yet. */
export function writeAttributes(path: Buffer, attributes: Attributes, fresh: boolean): void {
  if (!fresh) {
    for (const name of listAttributes(path)) {
      if (isPortable(name) && !attributes.has(name)) removeAttribute(path, name);
    }
  }
  for (const [name, value] of attributes) {
    try {
      setAttribute(path, name, value);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "ENOTSUP" && code !== "EOPNOTSUPP") throw error;
      throw new GodwitError(
        "refused",
        `the file system of this host's data folder does not take the attribute ${name}; use ext4, XFS or btrfs`,
        { cause: error },
      );
    }
  }
}
