/** `service ls`, `inspect`, `rm`, `rollback` and `scale`. */
import type { ServiceInfo } from "../../../proto/gen/godwit/v1/api.ts";
import { EXIT, ExitWith, GRPC, isCallFailure } from "../failure.ts";
import { followStream } from "../follow.ts";
import { printFields, printJson, printList, type OutputFormat } from "../output.ts";
import { connectApi, say, waitInterruptibly } from "../session.ts";
import { containerColumns } from "../shape/container.ts";
import { serviceColumns, serviceDetail, serviceRow, serviceSummary } from "../shape/service.ts";
import { untilRolledOut } from "./roll-out.ts";

interface ListOptions {
  readonly api?: string;
  readonly output: OutputFormat;
}
interface ChangeOptions extends ListOptions {
  readonly detach: boolean;
  readonly timeoutMs: number;
}

export async function list(options: ListOptions): Promise<void> {
  using api = await connectApi(options.api);
  const { services } = await api.call("listServices", {});
  await printList(options.output, services, serviceColumns(Date.now()), serviceRow);
}

export async function inspect(name: string, options: ListOptions): Promise<void> {
  using api = await connectApi(options.api);
  const info = await api.call("inspectService", { name });
  if (options.output === "json") {
    printJson(serviceDetail(info));
    return;
  }
  await printFields(serviceSummary(info, Date.now()));
  if (info.containers.length === 0) return;
  process.stdout.write("\n");
  await printList(options.output, info.containers, containerColumns(Date.now()), () => undefined);
}

export async function scale(name: string, replicas: number, options: ChangeOptions): Promise<void> {
  using api = await connectApi(options.api);
  const info = await api.call("scaleService", { name, replicas });
  await follow(info, options);
}

export async function rollBack(
  name: string,
  options: ChangeOptions & { readonly to: number },
): Promise<void> {
  using api = await connectApi(options.api);
  const info = await api.call("rollBackService", { name, revision: options.to });
  await follow(info, options);
}

async function follow(changed: ServiceInfo, options: ChangeOptions): Promise<void> {
  using api = await connectApi(options.api);
  const hint = (): string =>
    `this goes on without this command; 'godwit service inspect ${changed.name}' shows how far it is`;
  const terms = { afterVersion: changed.version - 1, timeoutMs: options.timeoutMs };
  const info = options.detach
    ? changed
    : await waitInterruptibly(hint, (signal) => untilRolledOut(api, changed.name, terms, signal));
  if (options.output === "json") printJson(serviceDetail(info));
  else
    say(
      `${info.name} is ${info.state} at revision ${info.revision}: ${info.available} of ${info.spec?.replicas ?? 0} available`,
    );
  if (!options.detach && info.state === "paused")
    throw new ExitWith(EXIT.failed, `${info.name} is ${info.state}: ${info.message}`);
}

export async function remove(
  names: readonly string[],
  options: { readonly api?: string; readonly detach: boolean },
): Promise<void> {
  using api = await connectApi(options.api);
  for (const wanted of names) {
    const { name } = await api.call("removeService", { name: wanted });
    if (options.detach) {
      say(`${name}: removal recorded`);
      continue;
    }
    const hint = (): string =>
      `the removal of ${name} goes on without this command; 'godwit service ls' shows it until it is gone`;
    await waitInterruptibly(hint, async (signal) => {
      try {
        for await (const info of followStream(() => api.stub.watchService({ name }), signal)) void info;
      } catch (error) {
        // Gone before it could be watched.
        if (!isCallFailure(error) || error.code !== GRPC.notFound) throw error;
      }
    });
    say(`${name} removed`);
  }
}
