/** In the place of agent/migrate/page-service.ts: a simulation's operator orders no post-copy. */
export async function servePages(): Promise<void> {
  await Promise.reject(new Error("no post-copy is simulated"));
}
