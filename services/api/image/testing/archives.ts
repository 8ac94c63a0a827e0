/** Image archives for tests, good ones and hostile ones. */
import { createHash } from "node:crypto";
import { pack } from "tar-stream";

export interface TarEntry {
  readonly name: string;
  readonly type?: "file" | "link" | "symlink" | "directory" | "character-device" | "block-device" | "fifo";
  readonly linkname?: string;
  readonly content?: Buffer | string;
  readonly pax?: Readonly<Record<string, string>>;
}

export async function tarOf(entries: readonly TarEntry[]): Promise<Buffer> {
  const tar = pack();
  for (const { name, type = "file", linkname, content = "", pax } of entries) {
    const header = {
      name,
      type,
      ...(linkname === undefined ? {} : { linkname }),
      ...(pax === undefined ? {} : { pax }),
      mtime: new Date(0),
    };
    if (type === "file") tar.entry(header, content);
    else tar.entry(header);
  }
  tar.finalize();
  const parts: Buffer[] = [];
  for await (const part of tar as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts);
}

export const sha256 = (data: Buffer | string): string => createHash("sha256").update(data).digest("hex");

export interface StoredLayer {
  /** As it lies in the archive. */
  readonly blob: Buffer;
  readonly tar: Buffer;
  readonly mediaType?: string;
}

const CONFIG = {
  Entrypoint: ["/bin/app"],
  Cmd: ["--serve"],
  Env: ["PATH=/bin"],
  WorkingDir: "/srv",
  User: "app",
  StopSignal: "SIGQUIT",
};

const configOf = (layers: readonly StoredLayer[], changes: object): string =>
  JSON.stringify({
    architecture: "amd64",
    os: "linux",
    config: CONFIG,
    rootfs: { type: "layers", diff_ids: layers.map(({ tar }) => `sha256:${sha256(tar)}`) },
    ...changes,
  });

export interface LayoutOptions {
  readonly config?: object;
  readonly platform?: { readonly os: string; readonly architecture: string };
  /** Applied to all files last: to damage them. */
  readonly change?: (files: Map<string, string | Buffer>) => void;
  readonly extraManifests?: readonly object[];
}

/** An OCI layout whose index leads over a second index to the manifest, as BuildKit writes it. */
export function ociLayout(layers: readonly StoredLayer[], options: LayoutOptions = {}): Promise<Buffer> {
  const files = new Map<string, string | Buffer>([
    ["oci-layout", JSON.stringify({ imageLayoutVersion: "1.0.0" })],
  ]);
  const blob = (data: string | Buffer): { digest: string; size: number } => {
    const hex = sha256(data);
    files.set(`blobs/sha256/${hex}`, data);
    return { digest: `sha256:${hex}`, size: Buffer.byteLength(data) };
  };
  const config = blob(configOf(layers, options.config ?? {}));
  const manifest = blob(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...config },
      layers: layers.map((layer) => ({
        mediaType: layer.mediaType ?? "application/vnd.oci.image.layer.v1.tar+gzip",
        ...blob(layer.blob),
      })),
    }),
  );
  const attestation = {
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    ...manifest,
    platform: { os: "unknown", architecture: "unknown" },
  };
  const index = blob(
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          mediaType: "application/vnd.oci.image.manifest.v1+json",
          ...manifest,
          platform: options.platform ?? { os: "linux", architecture: "amd64" },
        },
        attestation,
        ...(options.extraManifests ?? []),
      ],
    }),
  );
  files.set(
    "index.json",
    JSON.stringify({
      schemaVersion: 2,
      manifests: [{ mediaType: "application/vnd.oci.image.index.v1+json", ...index }],
    }),
  );
  options.change?.(files);
  return tarOf([...files].map(([name, content]) => ({ name, content })));
}

/** What older `docker save` writes, with a layer that is a link to an earlier one. */
export function dockerArchive(
  images: readonly { readonly tags: readonly string[]; readonly layers: readonly StoredLayer[] }[],
): Promise<Buffer> {
  const entries: TarEntry[] = [];
  const places = new Map<string, string>();
  const manifest = images.map(({ tags, layers }, i) => {
    const config = configOf(layers, {});
    const configName = `${sha256(config)}.json`;
    entries.push({ name: configName, content: config });
    const paths = layers.map(({ blob }, n) => {
      const path = `image${i}layer${n}/layer.tar`;
      const known = places.get(sha256(blob));
      if (known === undefined) entries.push({ name: path, content: blob });
      else entries.push({ name: path, type: "symlink", linkname: `../${known}` });
      places.set(sha256(blob), path);
      return path;
    });
    return { Config: configName, RepoTags: tags, Layers: paths };
  });
  entries.push({ name: "manifest.json", content: JSON.stringify(manifest) });
  return tarOf(entries);
}
