/** Following a service until it stands as it is wanted, or cannot. */
import type { ServiceInfo } from "../../../proto/gen/godwit/v1/api.ts";
import type { ApiClient } from "../api-client.ts";
import { EXIT, ExitWith } from "../failure.ts";
import { followStream } from "../follow.ts";
import { formatDuration } from "../quantity.ts";
import { isWatched } from "../session.ts";

export interface RollOutOptions {
  /** Only what the service is in a later version counts. */
  readonly afterVersion: number;
  readonly timeoutMs: number;
}

/** As many containers as are wanted, all of the present revision, and all doing their work; or it will not come. */
const isOver = (info: ServiceInfo): boolean => {
  switch (info.state) {
    case "paused":
      return true;
    // A scaling, too, may come to its end in a service that was rolled back before.
    case "rolled-back":
    case "steady": {
      const wanted = info.spec?.replicas ?? 0;
      return info.updated === wanted && info.containers.length === wanted;
    }
    default:
      return false;
  }
};

const progress = (info: ServiceInfo): string => {
  const wanted = info.spec?.replicas ?? 0;
  const why = info.message === "" ? "" : ` (${info.message})`;
  return `${info.name}: ${info.state}, ${info.updated} of ${wanted} at revision ${info.revision}, ${info.available} available${why}`;
};

/** The service as it is when it is over. Throws when it is removed meanwhile, or takes longer. */
export async function untilRolledOut(
  api: ApiClient,
  name: string,
  { afterVersion, timeoutMs }: RollOutOptions,
  interrupted: AbortSignal,
): Promise<ServiceInfo> {
  const late = AbortSignal.timeout(timeoutMs);
  let last: ServiceInfo | undefined;
  let said = "";
  try {
    const signal = AbortSignal.any([interrupted, late]);
    for await (const info of followStream(() => api.stub.watchService({ name }), signal)) {
      if (info.version <= afterVersion) continue;
      last = info;
      const line = progress(info);
      if (isWatched() && line !== said) process.stderr.write(`${line}\n`);
      said = line;
      if (isOver(info)) return info;
    }
  } catch (error) {
    if (!late.aborted || interrupted.aborted) throw error;
    const how = last === undefined ? "" : `: ${progress(last)}`;
    throw new ExitWith(
      EXIT.failed,
      `${name} is not up after ${formatDuration(timeoutMs)}${how}; it goes on, 'godwit service inspect ${name}' shows how far it is`,
    );
  }
  throw new ExitWith(EXIT.failed, `the service ${name} was removed meanwhile`);
}
