import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import { jetstream } from "@nats-io/jetstream";
import { Objm, StorageType, type ObjectStore } from "@nats-io/obj";
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { compress } from "zstd-napi";
import zstd from "zstd-napi/binding.js";

import { IMAGE_STORE } from "../../proto/contract/subjects.ts";
import { Image } from "../../proto/gen/godwit/v1/spec.ts";
import { OPAQUE_ATTRIBUTE } from "../layer/attributes.ts";
import { TAR_END, encodeTarHeader, paddingOf, type TarMember } from "../layer/tar-header.ts";
import { temporaryFolder } from "../layer/testing/tree.ts";
import { getAttribute, listAttributes } from "../native/files.ts";
import { startNatsServer, type TestNatsServer } from "../stream/testing/nats-server.ts";
import { downloadObject } from "./download.ts";
import { openImageStore, type ImageStore } from "./mod.ts";
import { SingleFlight } from "./single-flight.ts";

let server: TestNatsServer;
let connection: NatsConnection;
let objects: ObjectStore;
const logger = pino({ level: "silent" });
const signal = new AbortController().signal;

beforeAll(async () => {
  server = await startNatsServer();
  connection = await connect({ port: server.port, reconnectTimeWait: 50, maxReconnectAttempts: -1 });
  objects = await new Objm(jetstream(connection)).create(IMAGE_STORE, { storage: StorageType.File });
});
afterAll(async () => {
  await connection.close();
  await server[Symbol.asyncDispose]();
});

type Fields = Partial<TarMember> & { body?: Buffer | string };
function tarOf(...members: Fields[]): Buffer {
  const parts = members.map(({ body = "", ...fields }) => {
    const bytes = Buffer.from(body);
    const member: TarMember = {
      name: "x",
      type: "file",
      mode: 0o644,
      uid: 0,
      gid: 0,
      mtimeNs: 1_700_000_000_000_000_000n,
      bodyBytes: bytes.byteLength,
      pax: {},
      ...fields,
    };
    return Buffer.concat([encodeTarHeader(member), bytes, Buffer.alloc(paddingOf(bytes.byteLength))]);
  });
  return Buffer.concat([...parts, TAR_END]);
}

const hexOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

async function putLayer(tar: Uint8Array, stored: Uint8Array = compress(tar)): Promise<string> {
  const hex = hexOf(tar);
  await objects.putBlob({ name: `layer/${hex}`, options: { max_chunk_size: 64 * 1024 } }, stored);
  return hex;
}

const imageOf = (...hexes: string[]): Image =>
  Image.fromPartial({
    name: "test",
    digest: `sha256:${hexOf(Buffer.from(hexes.join()))}`,
    layers: hexes.map((hex) => ({ diffId: `sha256:${hex}`, object: `layer/${hex}` })),
  });

const openStore = (dir: string): Promise<ImageStore> => openImageStore({ dir, connection, logger });
const layersIn = (dir: string): string[] => readdirSync(join(dir, "layers")).sort();

test("layers are unpacked once, top first, and OCI's whiteouts become overlayfs's", async () => {
  await using folder = await temporaryFolder();
  const store = await openStore(folder.path);
  const base = await putLayer(
    tarOf(
      { name: ".", type: "directory", mode: 0o711 },
      { name: "etc", type: "directory", mode: 0o755 },
      { name: "etc/passwd", body: "root:x:0:0\n" },
      {
        name: "bin/ping",
        mode: 0o4755,
        body: randomBytes(300_000),
        pax: {
          "SCHILY.xattr.security.capability":
            Buffer.from("010000020020008000000000000000000000", "hex").subarray(0, 20).toString("latin1") +
            "\0\0",
        },
      },
    ),
  );
  const top = await putLayer(
    tarOf(
      { name: "etc/.wh.passwd" },
      { name: "var/.wh..wh..opq" },
      {
        name: "var/new",
        body: "x",
        pax: { "SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.kept": "\xff" },
      },
      { name: "etc/hosts", body: "x" },
      { name: "etc/.wh.hosts" },
      { name: ".wh..wh.plnk", type: "directory" },
    ),
  );
  const image = imageOf(base, top);
  expect(await store.has(image.digest)).toBe(false);
  const [root, again] = await Promise.all([store.ensure(image, signal), store.ensure(image, signal)]);
  expect(root).toEqual(again);
  expect(root.lowerDirs).toEqual([top, base].map((hex) => join(folder.path, "layers", hex, "fs")));
  expect(await store.has(image.digest)).toBe(true);
  expect(await store.list()).toEqual([image.digest]);

  const [upper = "", lower = ""] = root.lowerDirs;
  expect(lstatSync(lower).mode & 0o7777).toBe(0o711);
  expect(lstatSync(upper).mode & 0o7777).toBe(0o755);
  expect(readFileSync(join(lower, "etc/passwd"), "utf8")).toBe("root:x:0:0\n");
  expect(lstatSync(join(lower, "bin/ping")).mode & 0o7777).toBe(0o4755);
  expect(getAttribute(Buffer.from(join(lower, "bin/ping")), "security.capability")?.subarray(4, 8)).toEqual(
    Buffer.from([0, 0x20, 0, 0x80]),
  );
  expect(lstatSync(join(upper, "etc/passwd"))).toMatchObject({ rdev: 0, size: 0 });
  expect(lstatSync(join(upper, "etc/passwd")).isCharacterDevice()).toBe(true);
  expect(getAttribute(Buffer.from(join(upper, "var")), OPAQUE_ATTRIBUTE)?.toString()).toBe("y");
  expect(listAttributes(Buffer.from(join(upper, "var/new")))).toEqual(["user.kept"]);
  expect(readFileSync(join(upper, "etc/hosts"), "utf8")).toBe("x");
  expect(readdirSync(upper).sort()).toEqual(["etc", "var"]);

  // A second agent life finds it all; nothing is asked of NATS.
  const later = await openImageStore({ dir: folder.path, connection: undefined as never, logger });
  expect(await later.ensure(image, signal)).toEqual(root);
});

test("an image that has a layer twice gets it once, the topmost", async () => {
  await using folder = await temporaryFolder();
  const store = await openStore(folder.path);
  const [a, b] = [await putLayer(tarOf({ name: "a" })), await putLayer(tarOf({ name: "b" }))];
  const { lowerDirs } = await store.ensure(imageOf(a, b, a), signal);
  expect(lowerDirs).toEqual([a, b].map((hex) => join(folder.path, "layers", hex, "fs")));
});

test.each<[string, string, () => Promise<Image>]>([
  ["a layer that is not in the store", "not-found", async () => Promise.resolve(imageOf("0".repeat(64)))],
  ["no layers", "invalid", async () => Promise.resolve(imageOf())],
  [
    "a digest that is none",
    "invalid",
    async () => Promise.resolve({ ...imageOf("0".repeat(64)), digest: "sha256:../../x" }),
  ],
  [
    "other content than its digest says",
    "corrupt",
    async () => {
      const hex = "1".repeat(64);
      await objects.putBlob({ name: `layer/${hex}` }, compress(tarOf({ name: "a" })));
      return imageOf(hex);
    },
  ],
  [
    "bytes that are not zstd",
    "corrupt",
    async () => imageOf(await putLayer(tarOf({ name: "n" }), randomBytes(9000))),
  ],
  [
    "a layer cut short",
    "corrupt",
    async () => {
      const tar = tarOf({ name: "short", body: randomBytes(500_000) });
      return imageOf(await putLayer(tar, compress(tar).subarray(0, 300_000)));
    },
  ],
  [
    "a path that leads out",
    "invalid",
    async () => imageOf(await putLayer(tarOf({ name: "../escaped", body: "x" }))),
  ],
  [
    "an absolute path",
    "invalid",
    async () => imageOf(await putLayer(tarOf({ name: "/escaped", body: "x" }))),
  ],
  [
    "a whiteout that leads out",
    "invalid",
    async () =>
      imageOf(await putLayer(tarOf({ name: "a/.wh..." }, { name: ".wh..." }, { name: ".wh..", body: "" }))),
  ],
  [
    "a path through a link",
    "invalid",
    async () =>
      imageOf(
        await putLayer(tarOf({ name: "l", type: "symlink", linkName: "/" }, { name: "l/.wh..wh..opq" })),
      ),
  ],
  [
    "a hard link out",
    "invalid",
    async () => imageOf(await putLayer(tarOf({ name: "h", type: "link", linkName: "../x" }))),
  ],
  [
    "a device",
    "invalid",
    async () => imageOf(await putLayer(tarOf({ name: "d", type: "block", major: 8, minor: 0 }))),
  ],
])("refused, with nothing left behind: %s", async (_, code, make) => {
  await using folder = await temporaryFolder();
  const store = await openStore(join(folder.path, "store"));
  await expect(store.ensure(await make(), signal)).rejects.toMatchObject({ code });
  expect(layersIn(join(folder.path, "store"))).toEqual([]);
  expect(readdirSync(folder.path)).toEqual(["store"]);
  expect(await store.list()).toEqual([]);
});

test("a layer whose size is a whole number of the decoder's pieces is not taken for one cut short", async () => {
  await using folder = await temporaryFolder();
  const store = await openStore(folder.path);
  const bytesWithout = tarOf({ name: "even", body: Buffer.alloc(512) }).byteLength - 512;
  const tar = tarOf({ name: "even", body: Buffer.alloc(3 * zstd.dStreamOutSize() - bytesWithout, "even") });
  expect(tar.byteLength % zstd.dStreamOutSize()).toBe(0);
  const hex = await putLayer(tar);
  const { lowerDirs } = await store.ensure(imageOf(hex), signal);
  expect(readFileSync(`${lowerDirs[0]}/even`)).toHaveLength(tar.byteLength - bytesWithout);
});

test("what a crash left half-made is removed and does not count", async () => {
  await using folder = await temporaryFolder();
  const hex = await putLayer(tarOf({ name: "a", body: "x" }));
  mkdirSync(join(folder.path, "layers", `.tmp-${hex}-1234`, "fs"), { recursive: true });
  mkdirSync(join(folder.path, "images"));
  writeFileSync(join(folder.path, "images", ".tmp-x"), "{");
  const image = imageOf(hex);
  writeFileSync(join(folder.path, "images", `${image.digest.slice(7)}.json`), '{"layers"');
  const store = await openStore(folder.path);
  expect(layersIn(folder.path)).toEqual([]);
  expect(await store.has(image.digest)).toBe(false);
  await store.ensure(image, signal);
  expect(await store.list()).toEqual([image.digest]);
});

test("prune keeps what is used, shared layers included, and follows nothing", async () => {
  await using folder = await temporaryFolder();
  const store = await openStore(join(folder.path, "store"));
  mkdirSync(join(folder.path, "precious"));
  writeFileSync(join(folder.path, "precious/file"), "x");
  const [shared, one, two] = [
    await putLayer(tarOf({ name: "shared" })),
    await putLayer(tarOf({ name: "one" })),
    await putLayer(tarOf({ name: "two", type: "directory" })),
  ];
  const [first, second] = [imageOf(shared, one), imageOf(shared, two)];
  await store.ensure(first, signal);
  const { lowerDirs } = await store.ensure(second, signal);
  symlinkSync(join(folder.path, "precious"), join(lowerDirs[0] ?? "", "link"));
  await store.prune(new Set([first.digest]));
  expect(await store.list()).toEqual([first.digest]);
  expect(layersIn(join(folder.path, "store"))).toEqual([shared, one].sort());
  await store.prune(new Set());
  expect(layersIn(join(folder.path, "store"))).toEqual([]);
  expect(existsSync(join(folder.path, "precious/file"))).toBe(true);
});

test("a server that goes on saying no is not asked for ever", async () => {
  await using bare = await startNatsServer();
  const toBare = await connect({ port: bare.port });
  try {
    const taking = downloadObject({ connection: toBare, object: "layer/none", logger, signal }).next();
    await expect(taking).rejects.toMatchObject({
      code: "unavailable",
      message: expect.stringMatching(/layer.none cannot be read from the image store: .*not found/) as string,
    });
  } finally {
    await toBare.close();
  }
});

test("NATS lost before or in the middle is waited for", async () => {
  await using folder = await temporaryFolder();
  const store = await openStore(folder.path);
  const tar = tarOf({ name: "large", body: randomBytes(3_000_000) });
  const stored = compress(tar);
  const hex = await putLayer(tar, stored);
  const image = imageOf(hex);
  const chunks = downloadObject({ connection, object: `layer/${hex}`, logger, signal });
  const taken: Uint8Array[] = [(await chunks.next()).value ?? new Uint8Array()];
  await server.stop();
  const rest = (async () => {
    for await (const chunk of chunks) taken.push(chunk);
  })();
  const ensured = store.ensure(image, AbortSignal.timeout(30_000));
  const givenUp = store.ensure(imageOf(hex, hex), AbortSignal.timeout(100));
  try {
    await expect(givenUp).rejects.toMatchObject({ name: "TimeoutError" });
  } finally {
    await server.start();
  }
  await Promise.all([rest, ensured]);
  expect(Buffer.concat(taken).equals(stored)).toBe(true);
  expect(await store.has(image.digest)).toBe(true);
});

test("a caller that gives up stops the work only if nobody else waits for it", async () => {
  const flights = new SingleFlight<string>();
  const { promise, resolve } = Promise.withResolvers<string>();
  const [impatient, patient] = [new AbortController(), new AbortController()];
  let stopped = false;
  const work = (stop: AbortSignal): Promise<string> => {
    stop.addEventListener("abort", () => (stopped = true));
    return promise;
  };
  const first = flights.run("k", impatient.signal, work);
  const second = flights.run("k", patient.signal, () => Promise.reject(new Error("a second run")));
  impatient.abort(new Error("enough"));
  await expect(first).rejects.toThrow("enough");
  expect(stopped).toBe(false);
  resolve("done");
  expect(await second).toBe("done");

  const lonely = new AbortController();
  const third = flights.run(
    "k",
    lonely.signal,
    (stop) =>
      new Promise((_, reject) => stop.addEventListener("abort", () => reject(new Error("told to stop")))),
  );
  lonely.abort(new Error("enough"));
  await expect(third).rejects.toThrow("enough");
});

test("giving up in the middle leaves nothing half-made", async () => {
  await using folder = await temporaryFolder();
  const store = await openStore(folder.path);
  const image = imageOf(await putLayer(tarOf({ name: "large", body: randomBytes(5_000_000) })));
  const stop = new AbortController();
  const ensuring = store.ensure(image, stop.signal);
  while (layersIn(folder.path).length === 0) await new Promise((resolve) => setImmediate(resolve));
  stop.abort(new Error("enough"));
  await expect(ensuring).rejects.toThrow("enough");
  const deadline = Date.now() + 5000;
  while (layersIn(folder.path).length > 0) {
    if (Date.now() > deadline) throw new Error("the half-made layer is still there after 5 s");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
});
