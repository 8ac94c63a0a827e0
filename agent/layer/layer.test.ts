import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

import { expect, test } from "vitest";

import { deviceNumber, makeNode, setAttribute, setModified } from "../native/files.ts";
import { applyDeletions, applyLayer } from "./apply.ts";
import { compareLayers } from "./compare.ts";
import { packLayer } from "./pack.ts";
import { removeTree } from "./remove.ts";
import { listFolder, scanLayer } from "./scan.ts";
import type { EntryStamp } from "./stamp.ts";
import { encodeTarHeader, paddingOf, TAR_END, type TarMember } from "./tar-header.ts";
import { gather, once, portrait, temporaryFolder } from "./testing/tree.ts";

const signal = new AbortController().signal;
const frozen = { signal, tolerateVanished: false };
const running = { signal, tolerateVanished: true };

function makeNastyTree(root: string): void {
  const at = (name: string): string => join(root, name);
  mkdirSync(at("etc/deep/er"), { recursive: true });
  writeFileSync(at("etc/plain"), "hello\n");
  writeFileSync(at("etc/empty"), "");
  writeFileSync(at("etc/secret"), "x", { mode: 0o600 });
  chmodSync(at("etc/secret"), 0);
  writeFileSync(at("etc/setuid"), "#!/bin/sh\n");
  chownSync(at("etc/setuid"), 1234, 2345);
  chmodSync(at("etc/setuid"), 0o6755);
  // cap_net_raw, cap_setfcap and others: bytes that are no UTF-8.
  setAttribute(
    Buffer.from(at("etc/setuid")),
    "security.capability",
    Buffer.from("01000002ff20008000ff000000000000000000ff", "hex").subarray(0, 20),
  );
  writeFileSync(at("etc/owned"), randomBytes(100_001));
  chownSync(at("etc/owned"), 3_000_000_000, 4_000_000_000);
  setAttribute(Buffer.from(at("etc/owned")), "user.binary", Buffer.from("\0\n=\xff\xfe ", "latin1"));
  mkdirSync(at("sticky"));
  chmodSync(at("sticky"), 0o1777);
  mkdirSync(at("opaque"));
  setAttribute(Buffer.from(at("opaque")), "trusted.overlay.opaque", Buffer.from("y"));
  symlinkSync("/nowhere/\u00e9", at("link"));
  symlinkSync("x".repeat(300), at("long-link"));
  linkSync(at("etc/plain"), at("hard"));
  linkSync(at("link"), at("hard-to-link"));
  makeNode(Buffer.from(at("fifo")), 0o010640);
  makeNode(Buffer.from(at("socket")), 0o140755);
  makeNode(Buffer.from(at("whiteout")), 0o020000, 0n);
  makeNode(Buffer.from(at("device")), 0o020666, deviceNumber(1, 3));
  makeNode(Buffer.from(at("disk")), 0o060660, deviceNumber(259, 70_000));
  mkdirSync(at(`${"long/".repeat(60)}end`), { recursive: true });
  writeFileSync(at("n".repeat(255)), "long name");
  writeFileSync(at("sp ace\nand \u00fcml\u00e4ut \u{1f426}"), "utf-8");
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe, 0x80, 0x41])]), "not utf-8");
  const sparse = openSync(at("sparse"), "w");
  writeSync(sparse, randomBytes(4096), 0, 4096, 5 * 2 ** 30);
  ftruncateSync(sparse, 10 * 2 ** 30);
  closeSync(sparse);
  truncateSync(at("etc/empty"), 0);
  writeFileSync(at("all-hole"), "");
  truncateSync(at("all-hole"), 1_000_000);
  setModified(Buffer.from(at("etc/plain")), 1_234_567_890_123_456_789n);
  setModified(Buffer.from(at("link")), -1_500_000_001n);
  setModified(Buffer.from(at("etc/deep")), 1n);
  setModified(Buffer.from(root), 42_000_000_007n);
}

test("everything that a file system holds arrives as it was, and the same tar twice changes nothing", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  makeNastyTree(source.path);
  const tar = await gather(packLayer(source.path, "all", frozen));
  expect(tar.byteLength).toBeLessThan(400_000);
  for (let round = 0; round < 2; round++) {
    await applyLayer(target.path, once(tar, 777), { signal });
    expect(portrait(target.path)).toEqual(portrait(source.path));
    expect(lstatSync(join(target.path, "sparse")).blocks).toBeLessThan(64);
    expect(lstatSync(join(target.path, "all-hole")).blocks).toBeLessThan(8);
  }
});

test("GNU tar reads what is written, attributes included", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  mkdirSync(join(source.path, "d"));
  writeFileSync(join(source.path, "d/\u00e9"), randomBytes(70_000));
  symlinkSync("d", join(source.path, "s"));
  linkSync(join(source.path, "d/\u00e9"), join(source.path, "h".repeat(150)));
  setAttribute(Buffer.from(source.path, "utf8"), "user.x", Buffer.from([0xff, 0]));
  setAttribute(Buffer.from(join(source.path, "d")), "user.y", Buffer.from([0xc3]));
  const archive = join(target.path, "archive.tar");
  writeFileSync(archive, await gather(packLayer(source.path, "all", frozen)));
  mkdirSync(join(target.path, "out"));
  execFileSync("tar", [
    "--xattrs",
    "--xattrs-include=*",
    "--numeric-owner",
    "-xpf",
    archive,
    "-C",
    join(target.path, "out"),
  ]);
  expect(portrait(join(target.path, "out"))).toEqual(portrait(source.path));
});

test("a difference turns an older copy into the present state", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  makeNastyTree(source.path);
  const sent = new Map<string, EntryStamp>();
  await applyLayer(target.path, packLayer(source.path, "all", { ...running, sent }), { signal });
  const at = (name: string): string => join(source.path, name);

  const quiet = compareLayers(await scanLayer(source.path, signal), await scanLayer(source.path, signal));
  expect(quiet.deleted).toEqual([]);

  appendFileSync(at("etc/plain"), "more\n");
  chmodSync(at("etc/setuid"), 0o4711);
  renameSync(at("sticky"), at("renamed"));
  rmSync(at("opaque"), { recursive: true });
  writeFileSync(at("opaque"), "a file now");
  unlinkSync(at("fifo"));
  mkdirSync(at("fifo"));
  writeFileSync(at("fifo/inside"), "x");
  unlinkSync(at("whiteout"));
  rmSync(at("long"), { recursive: true });
  unlinkSync(at("hard-to-link"));
  linkSync(at("etc/owned"), at("etc/deep/owned-too"));
  setAttribute(Buffer.from(at("etc")), "user.new", Buffer.from("1"));
  const { changed, deleted } = compareLayers(sent, await scanLayer(source.path, signal));
  expect(deleted).toEqual(expect.arrayContaining(["sticky", "long", "hard-to-link", "whiteout"]));
  await applyDeletions(target.path, deleted);
  await applyLayer(target.path, packLayer(source.path, changed, frozen), { signal });
  expect(portrait(target.path)).toEqual(portrait(source.path));
});

test("only what changed is sent once stamps have settled, and a replaced file gets a new inode", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  mkdirSync(join(source.path, "d"));
  for (const name of ["a", "b", "d/c"]) writeFileSync(join(source.path, name), name);
  const old = Date.now();
  while (Date.now() < old + 80) await setTimeout(10);
  const sent = new Map<string, EntryStamp>();
  await applyLayer(target.path, packLayer(source.path, "all", { ...running, sent }), { signal });
  expect(compareLayers(sent, await scanLayer(source.path, signal))).toEqual({ changed: [], deleted: [] });
  const earlier = openSync(join(target.path, "d/c"), "r");
  writeFileSync(join(source.path, "d/c"), "C");
  const change = compareLayers(sent, await scanLayer(source.path, signal));
  expect(change).toEqual({ changed: ["d/c"], deleted: [] });
  await applyLayer(target.path, packLayer(source.path, change.changed, frozen), { signal });
  expect(readFileSync(earlier, "utf8")).toBe("d/c");
  closeSync(earlier);
  expect(portrait(target.path)).toEqual(portrait(source.path));
});

test("a running container may do what it likes: the tar stays whole, and the difference mends the rest", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  writeFileSync(join(source.path, "grows"), randomBytes(1_000_000));
  writeFileSync(join(source.path, "shrinks"), randomBytes(1_000_000));
  writeFileSync(join(source.path, "z-vanishes"), "x");
  writeFileSync(join(source.path, "z-turns"), "x");
  for (let index = 0; index < 50; index++) writeFileSync(join(source.path, `m${index}`), randomBytes(20_000));
  const sent = new Map<string, EntryStamp>();
  async function* meddled(): AsyncGenerator<Uint8Array> {
    let pieces = 0;
    for await (const piece of packLayer(source.path, "all", { ...running, sent })) {
      yield piece;
      if (++pieces === 2) appendFileSync(join(source.path, "grows"), "more");
      if (pieces === 3) {
        truncateSync(join(source.path, "shrinks"), 10);
        unlinkSync(join(source.path, "z-vanishes"));
        unlinkSync(join(source.path, "z-turns"));
        mkdirSync(join(source.path, "z-turns"));
      }
    }
  }
  await applyLayer(target.path, meddled(), { signal });
  const { changed, deleted } = compareLayers(sent, await scanLayer(source.path, signal));
  await applyDeletions(target.path, deleted);
  await applyLayer(target.path, packLayer(source.path, changed, frozen), { signal });
  expect(portrait(target.path)).toEqual(portrait(source.path));
});

test("while frozen, a path that is not there is an error", async () => {
  await using source = await temporaryFolder();
  await expect(gather(packLayer(source.path, ["gone"], frozen))).rejects.toThrow("vanished");
  await expect(gather(packLayer(source.path, ["../etc/passwd"], running))).rejects.toMatchObject({
    code: "invalid",
  });
});

test("a large file streams: memory does not grow with it", async () => {
  await using source = await temporaryFolder();
  await using target = await temporaryFolder();
  const bytes = randomBytes(8_000_000);
  for (let turn = 0; turn < 10; turn++) appendFileSync(join(source.path, "large"), bytes);
  let [inFlight, most] = [0, 0];
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const piece of packLayer(source.path, "all", frozen)) {
      inFlight++;
      most = Math.max(most, inFlight);
      yield piece;
      inFlight--;
    }
  }
  expect(await applyLayer(target.path, counted(), { signal })).toEqual({ entries: 2, bytes: 80_000_000 });
  expect(most).toBe(1);
  execFileSync("cmp", [join(source.path, "large"), join(target.path, "large")]);
});

const member = (fields: Partial<TarMember>): TarMember => ({
  name: "x",
  type: "file",
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtimeNs: 0n,
  bodyBytes: 0,
  pax: {},
  ...fields,
});
const tarOf = (...members: [TarMember, string?][]): Buffer =>
  Buffer.concat([
    ...members.flatMap(([head, body = ""]) => [
      encodeTarHeader({ ...head, bodyBytes: body.length }),
      Buffer.from(body),
      Buffer.alloc(paddingOf(body.length)),
    ]),
    TAR_END,
  ]);

test.each<[string, Buffer]>([
  ["upwards", tarOf([member({ name: "../escaped" }), "x"])],
  ["upwards in the middle", tarOf([member({ name: "a/../../escaped" }), "x"])],
  ["absolute", tarOf([member({ name: "/tmp/godwit-escaped" }), "x"])],
  [
    "through a symbolic link",
    tarOf([member({ name: "a", type: "symlink", linkName: ".." })], [member({ name: "a/escaped" }), "x"]),
  ],
  ["through a file", tarOf([member({ name: "a" }), "x"], [member({ name: "a/escaped" }), "x"])],
  ["a hard link out", tarOf([member({ name: "a", type: "link", linkName: "../outside" })])],
  ["an absolute hard link", tarOf([member({ name: "a", type: "link", linkName: "/etc/passwd" })])],
  [
    "a hard link through a symbolic link",
    tarOf(
      [member({ name: "s", type: "symlink", linkName: ".." })],
      [member({ name: "a", type: "link", linkName: "s/outside" })],
    ),
  ],
  ["a hard link to nothing", tarOf([member({ name: "a", type: "link", linkName: "b" })])],
  ["a hard link to itself", tarOf([member({ name: "a", type: "link", linkName: "a" })])],
  ["the root as a file", tarOf([member({ name: "." }), "x"])],
  ["a NUL", tarOf([member({ name: "x", pax: { path: "a\0b" } }), "x"])],
])("a hostile tar is refused: %s", async (_, tar) => {
  await using folder = await temporaryFolder();
  const root = join(folder.path, "root");
  mkdirSync(root);
  writeFileSync(join(folder.path, "outside"), "untouched");
  await expect(applyLayer(root, once(tar), { signal })).rejects.toMatchObject({ code: "invalid" });
  expect(readdirSync(folder.path).sort()).toEqual(["outside", "root"]);
  expect(lstatSync(join(folder.path, "outside")).nlink).toBe(1);
  expect(existsSync("/tmp/godwit-escaped")).toBe(false);
});

test("an entry replaces a symbolic link and does not write through it", async () => {
  await using folder = await temporaryFolder();
  const root = join(folder.path, "root");
  mkdirSync(root);
  const outside = join(folder.path, "outside");
  writeFileSync(outside, "untouched");
  mkdirSync(join(folder.path, "folder"));
  symlinkSync(outside, join(root, "a"));
  symlinkSync(join(folder.path, "folder"), join(root, "d"));
  const tar = tarOf(
    [member({ name: "a", mode: 0o777 }), "new"],
    [member({ name: "d", type: "directory", mode: 0o777 })],
  );
  await applyLayer(root, once(tar), { signal });
  expect(readFileSync(outside, "utf8")).toBe("untouched");
  expect(readFileSync(join(root, "a"), "utf8")).toBe("new");
  expect(lstatSync(join(root, "d")).isDirectory()).toBe(true);
  expect(statSync(join(folder.path, "folder")).mode & 0o777).not.toBe(0o777);
});

test.each<[string, Buffer]>([
  ["no tar", randomBytes(5000)],
  ["cut within a file", tarOf([member({}), "x".repeat(5000)]).subarray(0, 3000)],
  ["cut within a header", tarOf([member({}), "x"]).subarray(0, 700)],
  [
    "a map of holes that does not fit",
    tarOf([member({ pax: { "GODWIT.sparse.map": "0,5", "GODWIT.sparse.size": "9" } }), "xxxx"]),
  ],
  ["an owner out of range", tarOf([member({ pax: { uid: "-1" } }), "x"])],
  [
    "a malformed time",
    tarOf([member({ pax: { "GODWIT.type": "socket", atime: "0" } }), ""]).fill("y", 512, 530),
  ],
])("a damaged tar is `corrupt`: %s", async (_, tar) => {
  await using folder = await temporaryFolder();
  await expect(applyLayer(folder.path, once(tar), { signal })).rejects.toMatchObject({ code: "corrupt" });
});

test("errors of the source and the signal pass through", async () => {
  await using folder = await temporaryFolder();
  async function* failing(): AsyncGenerator<Uint8Array> {
    yield tarOf([member({}), "x"]).subarray(0, 600);
    throw new Error("the wire is cut");
  }
  await expect(applyLayer(folder.path, failing(), { signal })).rejects.toThrow("the wire is cut");
  await expect(
    applyLayer(folder.path, once(tarOf([member({}), "x"])), { signal: AbortSignal.abort() }),
  ).rejects.toMatchObject({ name: "AbortError" });
});

function mount(...args: string[]): Disposable {
  execFileSync("mount", args);
  const point = args.at(-1) ?? "";
  return { [Symbol.dispose]: () => execFileSync("umount", [point]) };
}

test("a real overlayfs: its upper folder is moved under another mount of the same image, which then looks the same", async () => {
  await using folder = await temporaryFolder();
  // Overlayfs does not take another overlayfs as upper, which a container's /tmp may be.
  const at = (name: string): string => join(folder.path, name);
  for (const name of ["disk", "other"]) mkdirSync(at(name));
  using _disk = mount("-t", "tmpfs", "-o", "size=64m", "godwit-test", at("disk"));
  const disk = (name: string): string => at(`disk/${name}`);
  for (const name of [
    "lower/etc/sub",
    "lower/var",
    "upper",
    "work",
    "merged",
    "upper2",
    "work2",
    "merged2",
  ]) {
    mkdirSync(disk(name), { recursive: true });
  }
  for (const name of ["etc/keep", "etc/change", "etc/remove", "etc/sub/file", "var/old"])
    writeFileSync(disk(`lower/${name}`), name);
  const overlay = (n: string): Disposable =>
    mount(
      "-t",
      "overlay",
      "-o",
      `lowerdir=${disk("lower")},upperdir=${disk(`upper${n}`)},workdir=${disk(`work${n}`)}`,
      "overlay",
      disk(`merged${n}`),
    );
  using _merged = overlay("");
  const merged = (name: string): string => disk(`merged/${name}`);
  appendFileSync(merged("etc/change"), " more");
  chmodSync(merged("etc/keep"), 0o4755);
  unlinkSync(merged("etc/remove"));
  rmSync(merged("var"), { recursive: true });
  mkdirSync(merged("var"));
  writeFileSync(merged("var/new"), "new");
  linkSync(merged("var/new"), merged("etc/new-link"));
  unlinkSync(merged("etc/sub/file"));
  chmodSync(merged(""), 0o711);

  await applyLayer(disk("upper2"), packLayer(disk("upper"), "all", running), { signal });
  const local = (attribute: string): boolean =>
    /^trusted\.overlay\.(origin|impure|uuid|nlink|upper)$/.test(attribute);
  expect(portrait(disk("upper2"), local)).toEqual(portrait(disk("upper"), local));
  using _merged2 = overlay("2");
  expect(portrait(disk("merged2"), local)).toEqual(portrait(disk("merged"), local));
  expect(readdirSync(disk("merged2/var"))).toEqual(["new"]);
  expect(existsSync(disk("merged2/etc/remove"))).toBe(false);
});

test("removeTree refuses to reach into a mount, a bind mount of the same file system included", async () => {
  await using folder = await temporaryFolder();
  const at = (name: string): string => join(folder.path, name);
  mkdirSync(at("precious"));
  writeFileSync(at("precious/file"), "x");
  mkdirSync(at("tree/deep/point with space"), { recursive: true });
  writeFileSync(at("tree/file"), "x");
  {
    using _bind = mount("--bind", at("precious"), at("tree/deep/point with space"));
    await expect(removeTree(Buffer.from(at("tree")))).rejects.toMatchObject({ code: "refused" });
    await expect(applyDeletions(folder.path, ["tree"])).rejects.toMatchObject({ code: "refused" });
    expect(readFileSync(at("precious/file"), "utf8")).toBe("x");
    expect(existsSync(at("tree/file"))).toBe(true);
  }
  symlinkSync(at("precious"), at("tree/link"));
  await removeTree(Buffer.from(at("tree")));
  expect(readdirSync(folder.path)).toEqual(["precious"]);
  expect(readFileSync(at("precious/file"), "utf8")).toBe("x");
});

test("a FIFO that takes a file's place does not block the reader", async () => {
  await using source = await temporaryFolder();
  const path = join(source.path, "f");
  makeNode(Buffer.from(path), 0o010644);
  // A writer that waits would be woken by an opened reader: it must go on waiting.
  const writer = spawn("sh", ["-c", 'exec 3>"$0"', path], { stdio: "ignore" });
  try {
    const tar = await gather(packLayer(source.path, ["f"], running));
    expect(tar.byteLength).toBeGreaterThan(1024);
    expect(writer.exitCode).toBe(null);
  } finally {
    writer.kill("SIGKILL");
  }
});

test("a folder that has become a link while it was read leads nowhere", async () => {
  await using host = await temporaryFolder();
  await using source = await temporaryFolder();
  writeFileSync(join(host.path, "secret"), "the host's own");
  symlinkSync(host.path, join(source.path, "folder"));
  const tar = await gather(packLayer(source.path, ["folder/secret"], running));
  expect(tar.includes("the host's own")).toBe(false);
  await expect(gather(packLayer(source.path, ["folder/secret"], frozen))).rejects.toThrow("vanished");
  expect(listFolder(Buffer.from(join(source.path, "folder")))).toEqual([]);
  mkdirSync(join(host.path, "below"));
  writeFileSync(join(host.path, "below/name"), "");
  expect(listFolder(Buffer.from(join(source.path, "folder/below")))).toEqual([]);
  expect(listFolder(Buffer.from(join(host.path, "below")))).toEqual(["name"]);
});
