import koffi from "koffi";

/**
 * System calls on files that Node has no word for: extended attributes, special files, holes, times in
 * nanoseconds. Paths are bytes, because a Linux file name is bytes and need not be UTF-8. No call here
 * follows a symbolic link in the last component. Failures are shaped like those of node:fs (`code`,
 * `errno`, `syscall`, `path`), so callers treat both alike.
 */
const libc = koffi.load("libc.so.6");
const llistxattr = libc.func("int64_t llistxattr(const void *path, void *list, size_t size)");
const lgetxattr = libc.func(
  "int64_t lgetxattr(const void *path, const void *name, void *value, size_t size)",
);
const getxattr = libc.func("int64_t getxattr(const char *path, const char *name, void *value, size_t size)");
const lsetxattr = libc.func(
  "int lsetxattr(const void *path, const void *name, const void *value, size_t size, int flags)",
);
const lremovexattr = libc.func("int lremovexattr(const void *path, const void *name)");
const mknod = libc.func("int mknod(const void *path, uint32_t mode, uint64_t device)");
const utimensat = libc.func("int utimensat(int directory, const void *path, const void *times, int flags)");
const lseek64 = libc.func("int64_t lseek64(int descriptor, int64_t offset, int whence)");
const fallocate = libc.func("int fallocate64(int descriptor, int mode, int64_t offset, int64_t length)");
const syncfs = libc.func("int syncfs(int descriptor)");

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const UTIME_OMIT = (1n << 30n) - 2n;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const NUL = Buffer.alloc(1);
/** The kernel's own limits, XATTR_LIST_MAX and XATTR_SIZE_MAX. */
const XATTR_MAX_BYTES = 65536;
const xattrScratch = Buffer.allocUnsafeSlow(XATTR_MAX_BYTES);

const ERRNO_NAMES = new Map(Object.entries(koffi.os.errno).map(([name, value]) => [value, name]));

function failed(syscall: string, path: Buffer | undefined): NodeJS.ErrnoException {
  const errno = koffi.errno();
  const code = ERRNO_NAMES.get(errno) ?? `E${errno}`;
  const where = path === undefined ? "" : ` '${path.toString("utf8")}'`;
  const error: NodeJS.ErrnoException = new Error(`${code}: ${syscall}${where}`);
  error.code = code;
  error.errno = errno;
  error.syscall = syscall;
  if (path !== undefined) error.path = path.toString("utf8");
  return error;
}

const terminated = (bytes: Buffer): Buffer => {
  // The kernel would silently act on the part before it.
  if (bytes.includes(0)) throw new TypeError("a path or attribute name with a NUL byte");
  return Buffer.concat([bytes, NUL]);
};

/** Names of all extended attributes, as byte strings (latin1). Empty where the file system has none. */
export function listAttributes(path: Buffer): string[] {
  const length = Number(llistxattr(terminated(path), xattrScratch, XATTR_MAX_BYTES));
  if (length < 0) {
    const error = failed("llistxattr", path);
    if (error.code === "ENOTSUP" || error.code === "EOPNOTSUPP") return [];
    throw error;
  }
  if (length === 0) return [];
  return xattrScratch.toString("latin1", 0, length - 1).split("\0");
}

/** The value (a copy), or undefined if the attribute is not there. */
export function getAttribute(path: Buffer, name: string): Buffer | undefined {
  const key = terminated(Buffer.from(name, "latin1"));
  const length = Number(lgetxattr(terminated(path), key, xattrScratch, XATTR_MAX_BYTES));
  if (length < 0) {
    const error = failed("lgetxattr", path);
    if (error.code === "ENODATA" || error.code === "ENOTSUP" || error.code === "EOPNOTSUPP") return undefined;
    throw error;
  }
  return Buffer.from(xattrScratch.subarray(0, length));
}

export function setAttribute(path: Buffer, name: string, value: Uint8Array): void {
  const key = terminated(Buffer.from(name, "latin1"));
  if (lsetxattr(terminated(path), key, value, value.byteLength, 0) !== 0) {
    throw failed(`lsetxattr ${name}`, path);
  }
}

/** Removing what is not there is no error. */
export function removeAttribute(path: Buffer, name: string): void {
  if (lremovexattr(terminated(path), terminated(Buffer.from(name, "latin1"))) !== 0) {
    const error = failed(`lremovexattr ${name}`, path);
    if (error.code !== "ENODATA") throw error;
  }
}

/** glibc's encoding of a device number, which is also that of `stat`. */
export function deviceNumber(major: number, minor: number): bigint {
  const [a, b] = [BigInt(major), BigInt(minor)];
  return ((a & 0xfffff000n) << 32n) | ((a & 0xfffn) << 8n) | ((b & 0xffffff00n) << 12n) | (b & 0xffn);
}

export function splitDeviceNumber(device: bigint): { major: number; minor: number } {
  return {
    major: Number(((device >> 32n) & 0xfffff000n) | ((device >> 8n) & 0xfffn)),
    minor: Number(((device >> 12n) & 0xffffff00n) | (device & 0xffn)),
  };
}

/** `mode` includes the file type (S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK); the umask takes its part away. */
export function makeNode(path: Buffer, mode: number, device = 0n): void {
  if (mknod(terminated(path), mode, device) !== 0) throw failed("mknod", path);
}

/** Sets the modification time and leaves the access time alone. */
export function setModified(path: Buffer, mtimeNs: bigint): void {
  const times = Buffer.alloc(32);
  times.writeBigInt64LE(UTIME_OMIT, 8);
  // Nanoseconds are 0…999,999,999 also before 1970.
  const nanoseconds = ((mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  times.writeBigInt64LE((mtimeNs - nanoseconds) / 1_000_000_000n, 16);
  times.writeBigInt64LE(nanoseconds, 24);
  if (utimensat(AT_FDCWD, terminated(path), times, AT_SYMLINK_NOFOLLOW) !== 0)
    throw failed("utimensat", path);
}

/**
 * The next run of data at or after `offset`, or undefined if only a hole is left. A file system that
 * knows no holes reports one run up to the end.
 */
export function nextData(descriptor: number, offset: number): { offset: number; length: number } | undefined {
  const start = Number(lseek64(descriptor, offset, SEEK_DATA));
  if (start < 0) {
    const error = failed("lseek SEEK_DATA", undefined);
    if (error.code === "ENXIO") return undefined;
    throw error;
  }
  const end = Number(lseek64(descriptor, start, SEEK_HOLE));
  if (end < 0) {
    const error = failed("lseek SEEK_HOLE", undefined);
    // Cut shorter between the two calls.
    if (error.code === "ENXIO") return undefined;
    throw error;
  }
  return { offset: start, length: end - start };
}

/** Writes everything of the descriptor's file system to its disk. Waits on a thread of libuv's pool. */
export function syncFileSystem(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) => {
    syncfs.async(descriptor, (error: Error | null, result: number) => {
      if (error !== null) reject(error);
      else if (result !== 0) reject(new Error("syncfs failed: the disk did not take everything"));
      else resolve();
    });
  });
}

/** The kernel's name of a socket's protocol, such as TCP or MPTCPv6, by its entry in /proc/PID/fd; undefined: it is closed. */
export function socketProtocol(path: string): string | undefined {
  const length = Number(getxattr(path, "system.sockprotoname", xattrScratch, XATTR_MAX_BYTES));
  return length > 0 ? xattrScratch.toString("latin1", 0, length - 1) : undefined;
}

/** Makes a part of a file a hole, which gives its space back. False: its file system has no such call. */
export function punchHole(descriptor: number, offset: number, length: number): boolean {
  if (length <= 0) return true;
  if (fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) === 0) return true;
  const error = failed("fallocate", undefined);
  if (error.code === "EOPNOTSUPP" || error.code === "ENOTSUP") return false;
  throw error;
}
