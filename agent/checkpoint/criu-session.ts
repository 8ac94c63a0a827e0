import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, writeFileSync } from "node:fs";
import { once } from "node:events";

import { GodwitError } from "../../proto/contract/error.ts";
import { type Options, Request, RequestType, Response } from "../../proto/gen/criu/rpc.ts";
import { openPacketPair, receivePacket, sendPacket, shutdownSocket } from "../native/sockets.ts";

/** CRIU answers in packets far below this; its longest is an error message. */
const MAXIMUM_PACKET_BYTES = 64 * 1024;

export interface CriuSessionOptions {
  readonly criuPath: string;
  /** Descriptors that CRIU inherits: the first becomes 4, the next 5, and so on (see `inheritedAs`). */
  readonly inherit?: readonly number[];
  /**
   * deploy/criu/tracking.c, which is loaded into CRIU before all others. Of an address space for which CRIU is told that
   * there is a parent it then names one page for each mapping.
   */
  readonly trackingLibrary?: string;
  /** `cgroup.procs` files that the process is moved into before it does anything. */
  readonly cgroupProcs?: readonly string[];
  /** The one that it is moved into to be killed, where those above may be frozen by then. */
  readonly killedIn?: string | undefined;
}

/** How long it may take to end by itself. */
const END_MS = 2_000;

/** Called at each of CRIU's notifications; CRIU waits until it settles, and fails if it rejects. */
export type CriuNotification = (script: string, pid: number) => Promise<void>;

/**
 * One `criu swrk` process, started and idle until `run` gives it its one request: starting it early takes
 * its start-up out of the time that a container stands still.
 */
export class CriuSession implements AsyncDisposable {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #socket: number;
  readonly #exited: Promise<void>;
  readonly #killedIn: string | undefined;
  #closed = false;

  private constructor(child: ChildProcess, pid: number, socket: number, killedIn: string | undefined) {
    this.#child = child;
    this.pid = pid;
    this.#socket = socket;
    this.#killedIn = killedIn;
    this.#exited = new Promise((resolve) => child.once("exit", () => resolve()));
  }

  static async start(options: CriuSessionOptions): Promise<CriuSession> {
    const [ours, theirs] = openPacketPair();
    try {
      const child = spawn(options.criuPath, ["swrk", "3"], {
        stdio: ["ignore", "ignore", "ignore", theirs, ...(options.inherit ?? [])],
        cwd: "/",
        ...(options.trackingLibrary === undefined
          ? {}
          : { env: trackingEnvironment(options.trackingLibrary) }),
      });
      const spawned = once(child, "spawn");
      try {
        await spawned;
      } catch (cause) {
        throw new GodwitError("unavailable", `CRIU could not be started (${options.criuPath})`, { cause });
      }
      for (const file of options.cgroupProcs ?? []) writeFileSync(file, String(child.pid));
      return new CriuSession(child, child.pid as number, ours, options.killedIn);
    } catch (error) {
      closeSync(ours);
      throw error;
    } finally {
      closeSync(theirs);
    }
  }

  /** The number under which CRIU sees the n-th inherited descriptor. */
  static inheritedAs(index: number): number {
    return 4 + index;
  }

  /**
   * Does one dump or restore. Resolves with CRIU's last answer; a failure's text is CRIU's own error
   * message where it gave one (its log says more). `onNotify` holds CRIU for as long as it likes.
   */
  async run(type: RequestType, options: Options, onNotify: CriuNotification): Promise<Response> {
    this.#send(Request.fromPartial({ type, opts: options }));
    for (;;) {
      const packet = await receivePacket(this.#socket, MAXIMUM_PACKET_BYTES);
      if (packet.byteLength === 0) throw new GodwitError("internal", "CRIU died before it answered");
      const response = Response.decode(packet);
      if (response.type !== RequestType.NOTIFY) return response;
      let failure: unknown;
      try {
        await onNotify(response.notify?.script ?? "", response.notify?.pid ?? 0);
      } catch (error) {
        failure = error;
      }
      try {
        this.#send(Request.fromPartial({ type: RequestType.NOTIFY, notifySuccess: failure === undefined }));
      } catch (dead) {
        throw failure ?? dead;
      }
      // CRIU now undoes its work; its answer would only say that a notification failed.
      if (failure !== undefined) {
        await receivePacket(this.#socket, MAXIMUM_PACKET_BYTES).catch(() => undefined);
        throw failure;
      }
    }
  }

  #send(request: Request): void {
    try {
      sendPacket(this.#socket, Request.encode(request).finish());
    } catch (cause) {
      throw new GodwitError("internal", "CRIU died before it answered", { cause });
    }
  }

  /** Ends the process if it still lives and waits until it is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    shutdownSocket(this.#socket);
    const patience = setTimeout(() => this.#kill(), END_MS);
    await this.#exited;
    clearTimeout(patience);
    closeSync(this.#socket);
  }

  #kill(): void {
    this.#child.kill("SIGKILL");
    if (this.#killedIn === undefined) return;
    try {
      writeFileSync(this.#killedIn, String(this.pid));
    } catch (error) {
      // It has ended in between.
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

function trackingEnvironment(library: string): NodeJS.ProcessEnv {
  return {
    ...process.env,
    LD_PRELOAD: library,
    GODWIT_NAME_MAPPINGS: "1",
    // Without its cache of pagemaps CRIU asks about one mapping at a time.
    CRIU_PMC_OFF: "1",
  };
}
