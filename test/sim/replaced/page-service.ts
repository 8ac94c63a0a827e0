/** In the place of agent/migrate/page-service.ts: one session of a post-copy at the source, without pages. */
import type { PageServiceTerms } from "../../../agent/migrate/page-service.ts";
import { context, isReachable, machineOf } from "../context.ts";

export const sessionName = (migrationId: string, session: number): string => `${migrationId} ${session}`;

export async function servePages({ host, order, session, signal, told }: PageServiceTerms): Promise<void> {
  const machine = machineOf(host);
  const name = sessionName(order.id, session);
  await context().sessions.serve(name, machine, () => isReachable(machine), signal);
  told(1_000, 1_000);
}
