import { closeSync, readdirSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { copyDescriptors } from "../native/descriptors.ts";
import { daemonOf } from "./lazy-pages.ts";

const ARRIVAL_LOOKS = 200;

/**
 * Keeps a container whose memory is being filled from running with empty pages: when the daemon that fills it dies,
 * the kernel gives zeros for whatever is still missing, unless somebody else holds the daemon's userfaultfds too. Then
 * a task that touches such a page waits.
 */
export class FillGuard implements Disposable {
  #held: number[] = [];

  /** Before anything of the container runs, or when an agent takes over. Without a daemon it does nothing. */
  async hold(pidFile: string, imagesDir: string): Promise<void> {
    const daemon = daemonOf(pidFile);
    if (daemon === undefined) return;
    // Each task sends its own while it is restored; the daemon may not have taken the last one in yet.
    const wanted = readdirSync(imagesDir).filter((name) => /^mm-\d+\.img$/.test(name)).length;
    for (let look = 0; look < ARRIVAL_LOOKS; look += 1) {
      this[Symbol.dispose]();
      this.#held = copyDescriptors(daemon.pid, "anon_inode:[userfaultfd]");
      if (this.#held.length >= wanted || daemonOf(pidFile) === undefined) return;
      await delay(1);
    }
  }

  [Symbol.dispose](): void {
    for (const descriptor of this.#held) closeSync(descriptor);
    this.#held = [];
  }
}
