/** In the place of agent/migrate/page-following.ts: a simulation's operator orders no post-copy. */
export class PageFollowing {
  constructor() {
    throw new Error("no post-copy is simulated");
  }
}
