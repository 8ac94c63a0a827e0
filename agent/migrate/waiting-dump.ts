import { closeSync } from "node:fs";

import { CriuSession } from "../checkpoint/criu-session.ts";
import type { Host } from "../host.ts";
import { openStreamPair } from "../native/sockets.ts";

/** What CRIU may have written before it is read. */
const PAGE_SOCKET_BYTES = 8 * 1024 * 1024;

/**
 * A CRIU that waits for the word to dump, and the socket that it will write memory to: its start takes longer than
 * freezing, and is over before the container stands still.
 */
export class WaitingDump implements AsyncDisposable {
  readonly session: CriuSession;
  readonly pageSocket: number;

  private constructor(session: CriuSession, pageSocket: number) {
    this.session = session;
    this.pageSocket = pageSocket;
  }

  static async start({
    criuPath,
    writeTracking,
  }: Pick<Host, "criuPath" | "writeTracking">): Promise<WaitingDump> {
    const [pageSocket, criusEnd] = openStreamPair(PAGE_SOCKET_BYTES);
    using opened = new DisposableStack();
    opened.defer(() => closeSync(pageSocket));
    try {
      const session = await CriuSession.start({
        criuPath,
        inherit: [criusEnd],
        ...(writeTracking.kind === "write-protect" ? { trackingLibrary: writeTracking.criuLibrary } : {}),
      });
      opened.move();
      return new WaitingDump(session, pageSocket);
    } finally {
      closeSync(criusEnd);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.session[Symbol.asyncDispose]();
    } finally {
      closeSync(this.pageSocket);
    }
  }
}
