/** Services as JSON and as tables. Pure. */
import type { ServiceInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { serviceFields } from "../manifest/document.ts";
import type { Column } from "../output.ts";
import { formatAge } from "../quantity.ts";
import { containerRow } from "./container.ts";
import { textOrNull, timeOrNull } from "./words.ts";

export const serviceRow = (info: ServiceInfo): Record<string, unknown> => ({
  name: info.name,
  state: info.state,
  image: info.spec?.template?.image ?? "",
  replicas: info.spec?.replicas ?? 0,
  available: info.available,
  updated: info.updated,
  revision: info.revision,
  stableRevision: info.stableRevision,
  version: info.version,
  disruptionsAllowed: info.disruptionsAllowed,
  message: textOrNull(info.message),
  createdAt: timeOrNull(info.createdAtMs),
});

export const serviceDetail = (info: ServiceInfo): Record<string, unknown> => ({
  ...serviceRow(info),
  containers: info.containers.map((one) => ({ ...containerRow(one), revision: one.serviceRevision })),
  revisions: info.revisions.map(({ atMs, image, imageDigest, revision }) => ({
    revision,
    at: timeOrNull(atMs),
    image,
    imageDigest,
  })),
  spec: info.spec === undefined ? null : serviceFields(info.spec),
});

const counts = (info: ServiceInfo): string => `${info.available}/${info.spec?.replicas ?? 0}`;

export const serviceColumns = (nowMs: number): Column<ServiceInfo>[] => [
  { title: "NAME", cell: (info) => info.name },
  { title: "STATE", cell: (info) => info.state },
  { title: "AVAILABLE", cell: counts, right: true },
  { title: "UPDATED", cell: (info) => String(info.updated), right: true },
  { title: "REVISION", cell: (info) => String(info.revision), right: true },
  { title: "IMAGE", cell: (info) => info.spec?.template?.image ?? "" },
  { title: "AGE", cell: (info) => formatAge(nowMs - info.createdAtMs), right: true },
  { title: "MAY GO", cell: (info) => String(info.disruptionsAllowed), right: true, wide: true },
  { title: "MESSAGE", cell: (info) => info.message },
];

export const serviceSummary = (info: ServiceInfo, nowMs: number): (readonly [string, string])[] => [
  ["Name", info.name],
  ["State", info.message === "" ? info.state : `${info.state}: ${info.message}`],
  ["Available", `${info.available} of ${info.spec?.replicas ?? 0}; ${info.disruptionsAllowed} may go now`],
  [
    "Revision",
    `${info.revision}${info.stableRevision === 0 ? "" : `, last known to be well: ${info.stableRevision}`}`,
  ],
  ["Updated", `${info.updated} are of this revision`],
  ["Version", String(info.version)],
  ["Image", `${info.spec?.template?.image ?? ""} (${info.spec?.template?.imageDigest ?? ""})`],
  ["Created", `${formatAge(nowMs - info.createdAtMs)} ago`],
  [
    "Revisions",
    info.revisions
      .map(({ atMs, image, revision }) => `${revision} (${image}, ${formatAge(nowMs - atMs)} ago)`)
      .join(", "),
  ],
];
