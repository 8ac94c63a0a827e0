import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { pino } from "pino";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { compress, decompress } from "zstd-napi";
import { ImportImageHeader } from "../../../proto/gen/godwit/v1/api.ts";
import type { Image } from "../../../proto/gen/godwit/v1/spec.ts";
import { importImage } from "./import.ts";
import { LayerLedger } from "./layer-ledger.ts";
import { SpoolFolder } from "./spool.ts";
import { dockerArchive, ociLayout, sha256, tarOf, type TarEntry } from "./testing/archives.ts";
import { MemoryLayers } from "./testing/memory-layers.ts";

let folder: string;
let layers: MemoryLayers;
let recorded: Image[];
const silent = pino({ level: "silent" });

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "godwit-import-"));
  layers = new MemoryLayers();
  recorded = [];
});
afterEach(async () => {
  const left = await readdir(join(folder, "import"));
  await rm(folder, { recursive: true });
  if (left.length > 0) throw new Error(`an import left files behind: ${left.join()}`);
});

async function* pieces(data: Buffer, size = 10_000): AsyncGenerator<Buffer> {
  for (let from = 0; from < data.length; from += size) yield data.subarray(from, from + size);
}

interface Case {
  readonly header?: Partial<ImportImageHeader>;
  readonly maxImageBytes?: number;
  readonly signal?: AbortSignal;
}
async function imported(
  archive: Buffer | AsyncIterable<Buffer>,
  { header = {}, maxImageBytes = 2 ** 30, signal = new AbortController().signal }: Case = {},
): Promise<Image> {
  const settings = {
    spool: await SpoolFolder.open(folder, maxImageBytes),
    ledger: new LayerLedger(layers, silent),
    logger: silent,
    maxImageBytes,
    nowMs: () => 1_700_000_000_000,
  };
  const chunks = Buffer.isBuffer(archive) ? pieces(archive) : archive;
  return importImage(
    settings,
    ImportImageHeader.fromPartial({ name: "app", ...header }),
    chunks,
    async (image) => void recorded.push(image),
    signal,
  );
}

const ROOT: readonly TarEntry[] = [
  { name: "./", type: "directory" },
  { name: "./bin/", type: "directory" },
  { name: "./bin/app", content: randomBytes(50_000) },
  { name: "./bin/sh", type: "symlink", linkname: "/bin/app" },
  { name: "./bin/app2", type: "link", linkname: "./bin/app" },
  { name: "./etc/.wh.gone", content: "" },
  { name: "./run/pipe", type: "fifo" },
];
const layerOf = (tar: Buffer) => ({ tar, blob: gzipSync(tar) });

describe("formats", () => {
  test("a plain tar, its gzip and its zstd are one and the same image", async () => {
    const tar = await tarOf(ROOT);
    const plain = await imported(tar);
    expect(plain).toMatchObject({
      name: "app",
      sizeBytes: tar.length,
      layers: [{ diffId: `sha256:${sha256(tar)}`, object: `layer/${sha256(tar)}`, sizeBytes: tar.length }],
    });
    const stored = layers.objects.get(`layer/${sha256(tar)}`);
    expect(decompress(stored ?? Buffer.alloc(0)).equals(tar)).toBe(true);
    expect((await imported(gzipSync(tar))).digest).toBe(plain.digest);
    expect((await imported(compress(tar))).digest).toBe(plain.digest);
    expect(layers.puts).toBe(1);
    expect(recorded).toHaveLength(3);
  });

  test("an OCI layout with gzip, zstd and plain layers", async () => {
    const tars = await Promise.all([
      tarOf(ROOT),
      tarOf([{ name: "b", content: "2" }]),
      tarOf([{ name: "c", content: "3" }]),
    ]);
    const [a, b, c] = tars;
    const archive = await ociLayout([
      layerOf(a),
      { tar: b, blob: compress(b), mediaType: "application/vnd.oci.image.layer.v1.tar+zstd" },
      { tar: c, blob: c, mediaType: "application/vnd.oci.image.layer.v1.tar" },
    ]);
    const image = await imported(archive);
    expect(image.layers.map((layer) => layer.diffId)).toEqual(tars.map((tar) => `sha256:${sha256(tar)}`));
    expect(image.config).toEqual({
      entrypoint: ["/bin/app"],
      cmd: ["--serve"],
      env: ["PATH=/bin"],
      workingDir: "/srv",
      user: "app",
      stopSignal: "SIGQUIT",
    });
    expect((await imported(gzipSync(archive))).digest).toBe(image.digest);
  });

  test("a docker-archive, layers that are links to earlier ones included", async () => {
    const [a, b] = [layerOf(await tarOf(ROOT)), layerOf(await tarOf([{ name: "b", content: "2" }]))];
    const archive = await dockerArchive([
      { tags: ["app:1"], layers: [a, b] },
      { tags: ["other:1", "registry.example/other:1"], layers: [a] },
    ]);
    const other = await imported(archive, { header: { name: "other:1" } });
    expect(other.layers).toHaveLength(1);
    expect((await imported(archive, { header: { name: "app:1" } })).layers).toHaveLength(2);
    await expect(imported(archive, { header: { name: "nothing" } })).rejects.toMatchObject({
      code: "invalid",
      message: expect.stringContaining("holds 2 images (app:1, other:1 registry.example/other:1)"),
    });
  });

  test("overrides change the configuration and so the digest", async () => {
    const archive = await ociLayout([layerOf(await tarOf(ROOT))]);
    const before = await imported(archive);
    const after = await imported(archive, {
      header: {
        config: {
          entrypoint: ["/bin/sh"],
          cmd: [],
          env: ["PATH=/sbin", "A=b"],
          workingDir: "",
          user: "",
          stopSignal: "",
        },
      },
    });
    expect(after.config).toEqual({
      entrypoint: ["/bin/sh"],
      cmd: [],
      env: ["PATH=/sbin", "A=b"],
      workingDir: "/srv",
      user: "app",
      stopSignal: "SIGQUIT",
    });
    expect(after.digest).not.toBe(before.digest);
    await expect(imported(archive, { header: { format: "rar" } })).rejects.toMatchObject({ code: "invalid" });
  });

  test("a root file system that happens to hold a file called manifest.json can be forced", async () => {
    const tar = await tarOf([...ROOT, { name: "manifest.json", content: "{}" }]);
    await expect(imported(tar)).rejects.toMatchObject({ code: "corrupt" });
    expect((await imported(tar, { header: { format: "tar" } })).layers).toHaveLength(1);
  });
});

describe("hostile entries are refused by name, in a plain tar and in a layer", () => {
  const cases: readonly (readonly [string, readonly TarEntry[], RegExp])[] = [
    ["a path with ..", [{ name: "a/../../etc/passwd", content: "x" }], /a\/\.\.\/\.\.\/etc\/passwd.*'\.\.'/],
    ["an absolute path", [{ name: "/etc/passwd", content: "x" }], /"\/etc\/passwd".*absolute/],
    [
      "an absolute path in a PAX header",
      [{ name: "x", pax: { path: "/etc/passwd" }, content: "x" }],
      /absolute/,
    ],
    ["a NUL in a PAX path", [{ name: "x", pax: { path: "etc/pass\0wd" }, content: "x" }], /NUL/],
    [
      "an entry below a symbolic link",
      [
        { name: "d", type: "symlink", linkname: "/etc" },
        { name: "d/passwd", content: "x" },
      ],
      /"d\/passwd" lies below "d"/,
    ],
    [
      "an entry below a hard link to a symbolic link",
      [
        { name: "d", type: "symlink", linkname: "/etc" },
        { name: "e", type: "link", linkname: "d" },
        { name: "e/passwd", content: "x" },
      ],
      /lies below "e"/,
    ],
    [
      "a symbolic link that a directory of its name does not undo",
      [
        { name: "d", type: "symlink", linkname: "/etc" },
        { name: "d", type: "directory" },
        { name: "d/passwd", content: "x" },
      ],
      /lies below "d"/,
    ],
    [
      "a hard link out of the root",
      [{ name: "x", type: "link", linkname: "../../etc/shadow" }],
      /could lead out/,
    ],
    ["an absolute hard link", [{ name: "x", type: "link", linkname: "/etc/shadow" }], /absolute/],
    [
      "a hard link through a symbolic link",
      [
        { name: "d", type: "symlink", linkname: "/etc" },
        { name: "x", type: "link", linkname: "d/shadow" },
      ],
      /lies below "d"/,
    ],
    ["a device", [{ name: "dev/sda", type: "block-device" }], /device node/],
    ["a character device", [{ name: "dev/mem", type: "character-device" }], /device node/],
    ["a whiteout of the parent", [{ name: "a/.wh...", content: "" }], /whiteout/],
    [
      "overlayfs's own attributes",
      [{ name: "a", content: "", pax: { "SCHILY.xattr.trusted.overlay.redirect": "/etc" } }],
      /overlayfs/,
    ],
    ["a file in the root's place", [{ name: "./.", content: "x" }], /root itself/],
    ["a sparse file", [{ name: "a", content: "", pax: { "GNU.sparse.major": "1" } }], /sparse/],
  ];
  test.each(cases)("%s", async (_, hostile, message) => {
    const tar = await tarOf([{ name: "fine", content: "fine" }, ...hostile]);
    for (const archive of [tar, await ociLayout([layerOf(tar)])]) {
      await expect(imported(archive)).rejects.toMatchObject({
        code: "invalid",
        message: expect.stringMatching(message),
      });
    }
    expect(recorded).toEqual([]);
    expect(layers.objects.size).toBe(0);
  });

  test("a hard link with contents, on which unpackers disagree", async () => {
    const tar = await tarOf([{ name: "x", content: "hidden" }]);
    tar[156] = "1".charCodeAt(0);
    tar.write("y\0", 157);
    tar.write("        ", 148); // the checksum counts itself as spaces
    const sum = tar.subarray(0, 512).reduce((total, byte) => total + byte, 0);
    tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    await expect(imported(tar)).rejects.toMatchObject({
      code: "invalid",
      message: expect.stringContaining("with 6 bytes of content"),
    });
  });
});

describe("damage is found and named", () => {
  test("truncated archives of every kind", async () => {
    const tar = await tarOf(ROOT);
    const between = tar.length - 1024 - 512; // between two entries: all that is missing is the end
    for (const [cut, message] of [
      [tar.subarray(0, 20_000), /cut short after entry "\.\/bin\/app"/],
      [tar.subarray(0, between), /cut short/],
      [gzipSync(tar).subarray(0, 30_000), /gzip.*damaged or cut short/],
      [gzipSync(tar).subarray(0, gzipSync(tar).length - 4), /gzip.*damaged or cut short/],
      [compress(tar).subarray(0, 30_000), /zstd.*damaged or cut short/],
    ] as const) {
      await expect(imported(cut)).rejects.toMatchObject({
        code: "corrupt",
        message: expect.stringMatching(message),
      });
    }
    expect(layers.objects.size).toBe(0);
  });

  test("bits that were flipped", async () => {
    const tar = await tarOf(ROOT);
    const zipped = gzipSync(tar);
    zipped[20_000] = (zipped[20_000] ?? 0) ^ 0xff;
    await expect(imported(zipped)).rejects.toMatchObject({ code: "corrupt" });
    const header = Buffer.from(tar);
    header[512 + 3] = 1;
    await expect(imported(header)).rejects.toMatchObject({
      code: "corrupt",
      message: expect.stringContaining("not a whole tar archive"),
    });
  });

  test("things that are no archive", async () => {
    await expect(imported(Buffer.from("hello"))).rejects.toMatchObject({
      code: "invalid",
      message: expect.stringContaining("neither a tar"),
    });
    await expect(imported(Buffer.alloc(0))).rejects.toMatchObject({
      code: "invalid",
      message: expect.stringContaining("empty"),
    });
    await expect(
      imported(Buffer.concat([Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]), randomBytes(100)])),
    ).rejects.toMatchObject({ message: expect.stringContaining("xz") });
    await expect(imported(randomBytes(40_000))).rejects.toMatchObject({ code: "invalid" });
  });

  test("blobs that are not what their digest says", async () => {
    const layer = layerOf(await tarOf(ROOT));
    for (const pattern of [/"layers"/, /"manifests"/, /"rootfs"/]) {
      const archive = await ociLayout([layer], {
        change(files) {
          for (const [name, content] of files) {
            if (name.startsWith("blobs/") && typeof content === "string" && pattern.test(content))
              files.set(name, `${content} `);
          }
        },
      });
      await expect(imported(archive)).rejects.toMatchObject({
        code: "corrupt",
        message: expect.stringContaining("digest"),
      });
    }
    const archive = await ociLayout([layer], {
      change: (files) =>
        void files.set(`blobs/sha256/${sha256(layer.blob)}`, gzipSync(layer.tar, { level: 1 })),
    });
    await expect(imported(archive)).rejects.toMatchObject({
      code: "corrupt",
      message: expect.stringMatching(/layer 1 of 1.*digest/),
    });
    const lying = await ociLayout([{ ...layer, tar: Buffer.from("other") }]);
    await expect(imported(lying)).rejects.toMatchObject({
      code: "corrupt",
      message: expect.stringContaining("configuration promises"),
    });
    const missing = await ociLayout([layer], {
      change: (files) => void files.delete(`blobs/sha256/${sha256(layer.blob)}`),
    });
    await expect(imported(missing)).rejects.toMatchObject({
      code: "corrupt",
      message: expect.stringContaining("does not hold it"),
    });
  });

  test("images for other machines", async () => {
    const layer = layerOf(await tarOf(ROOT));
    await expect(
      imported(await ociLayout([layer], { platform: { os: "linux", architecture: "arm64" } })),
    ).rejects.toMatchObject({ message: expect.stringContaining("no image for linux/amd64") });
    await expect(
      imported(await ociLayout([layer], { config: { architecture: "arm64" } })),
    ).rejects.toMatchObject({ message: expect.stringContaining("linux/arm64") });
  });
});

describe("limits", () => {
  test("a bomb is stopped at the limit, compressed or not", async () => {
    const bomb = compress(Buffer.alloc(64 * 2 ** 20));
    await expect(imported(bomb, { maxImageBytes: 2 ** 20 })).rejects.toMatchObject({ code: "exhausted" });
    const layer = layerOf(await tarOf([{ name: "zeros", content: Buffer.alloc(4 * 2 ** 20) }]));
    await expect(imported(await ociLayout([layer]), { maxImageBytes: 2 ** 20 })).rejects.toMatchObject({
      code: "exhausted",
      message: expect.stringContaining("layer 1 of 1"),
    });
  });

  test("an import that its client gives up leaves nothing", async () => {
    const controller = new AbortController();
    async function* endless(): AsyncGenerator<Buffer> {
      yield await tarOf(ROOT);
      controller.abort(new Error("gone"));
      yield Buffer.alloc(512);
    }
    await expect(imported(endless(), { signal: controller.signal })).rejects.toThrow("gone");
    expect(recorded).toEqual([]);
  });

  test("names", async () => {
    for (const name of ["", "Upper", "a b", "-a", "../a", "a/"]) {
      await expect(imported(Buffer.alloc(0), { header: { name } })).rejects.toMatchObject({
        code: "invalid",
        message: expect.stringContaining("no name for an image"),
      });
    }
  });
});
