import { GodwitError } from "../../proto/contract/error.ts";

/**
 * Paths within a layer are byte strings: each character is one byte (latin1), because a Linux file name is
 * bytes and need not be UTF-8. They are relative, without leading or trailing slash; the layer's root is
 * ".". They become bytes again only at a system call (`atPath`) and in a tar header.
 */
export const ROOT_PATH = ".";

const MAX_NAME_BYTES = 255;

const invalid = (path: string, why: string): GodwitError =>
  new GodwitError("invalid", `refused the entry '${Buffer.from(path, "latin1").toString("utf8")}': ${why}`);

/**
 * The components of a path that came from outside, none for the root. Throws GodwitError `invalid` for
 * whatever could lead out of the root.
 */
export function splitPath(path: string): string[] {
  if (path.includes("\0")) throw invalid(path, "its name has a NUL byte");
  if (path.startsWith("/")) throw invalid(path, "its path is absolute");
  const components = path.split("/").filter((component) => component !== "" && component !== ".");
  for (const component of components) {
    if (component === "..") throw invalid(path, "its path leads upwards");
    if (component.length > MAX_NAME_BYTES) throw invalid(path, "its name is too long");
  }
  return components;
}

export const joinPath = (components: readonly string[]): string =>
  components.length === 0 ? ROOT_PATH : components.join("/");

export const parentPath = (path: string): string => {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? ROOT_PATH : path.slice(0, slash);
};

/** The bytes for a system call; `path` must have gone through splitPath or come from a directory listing. */
export const atPath = (root: Buffer, path: string): Buffer =>
  path === ROOT_PATH ? root : Buffer.concat([root, Buffer.from(`/${path}`, "latin1")]);

/** The body of a LAYER_DELETIONS record. */
export const encodePaths = (paths: readonly string[]): Buffer => Buffer.from(paths.join("\0"), "latin1");

export function decodePaths(bytes: Uint8Array): string[] {
  if (bytes.byteLength === 0) return [];
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1").split("\0");
}
