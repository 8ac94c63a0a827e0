/** `node cordon`, `node uncordon`, `node trust` and `node rm`. */
import { connectApi, say } from "../session.ts";

export async function setSchedulable(
  names: readonly string[],
  schedulable: boolean,
  options: { readonly api?: string },
): Promise<void> {
  using api = await connectApi(options.api);
  for (const node of names) {
    const summary = await api.call("setSchedulable", { node, schedulable });
    say(
      schedulable
        ? `${summary.name} takes containers again`
        : `${summary.name} takes no new containers; 'godwit node drain ${summary.name}' moves those away that it has`,
    );
  }
}

export async function trustKey(node: string, key: Buffer, options: { readonly api?: string }): Promise<void> {
  using api = await connectApi(options.api);
  const summary = await api.call("trustNodeKey", { node, key });
  say(`${summary.name} is the node with this key from now on`);
}

export async function removeNode(
  name: string,
  options: { readonly api?: string; readonly isOff: boolean },
): Promise<void> {
  using api = await connectApi(options.api);
  const { node, placedAnew, returned } = await api.call("removeNode", { node: name, isOff: options.isOff });
  say(`${node || name} is no node of the cluster any more`);
  for (const container of returned) say(`${container} goes on at the host that has it frozen`);
  for (const container of placedAnew) say(`${container} is started anew`);
}
