import { randomBytes } from "node:crypto";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import type { Msg, NatsConnection, Subscription } from "@nats-io/transport-node";
import type { Logger } from "pino";

import { GodwitError } from "../../proto/contract/error.ts";
import { execInputSubject, execSubject } from "../../proto/contract/subjects.ts";
import { ExecOpen, ExecOpened } from "../../proto/gen/godwit/v1/agent.ts";
import { checkRequest, type ExecDefaults, initPidOf, processOf } from "./exec-request.ts";
import { ExecSession } from "./exec-session.ts";
import { endLeftovers } from "./leftovers.ts";
import { hasListener } from "./output-subject.ts";
import { RuncExec } from "./runc-exec.ts";
import { runShortCommand, type ShortOutcome } from "./short-command.ts";

export interface ExecHost {
  /** What the reconcile side knows of a container; undefined: it is not on this host. */
  lookup(containerId: string): { state: "running" | "frozen" | "other"; detail: string } | undefined;
  /** Global ones, as ["--root", "/…/runc"]. */
  readonly runcArguments: readonly string[];
  readonly runcPath: string;
  /** The container's own environment (K=V), working directory and user ("uid[:gid]" or names). */
  defaults(containerId: string): ExecDefaults;
}

export interface ExecService extends AsyncDisposable {
  /**
   * Ends (after graceMs) every session of the container because it is about to be frozen for a move; no new one
   * is admitted until `admit`. Resolves when no exec process is left. Throws `deadline` when one cannot be
   * killed, as in a container that is frozen already.
   */
  quiesce(containerId: string, graceMs: number, reason: string): Promise<void>;
  /** A session is open in it. */
  isBusy(containerId: string): boolean;
  admit(containerId: string): void;
  /**
   * Does something inside the container from the host, such as holding a connection to it. Its signal aborts when the
   * container is about to be frozen, and `quiesce` waits until it has ended. Throws `unavailable` when it is no time for
   * visits.
   */
  visit<T>(containerId: string, what: (leaving: AbortSignal) => Promise<T>): Promise<T>;
  /** Runs a command to its end, with nobody at its input. Throws the signal's reason when that aborts. */
  command(containerId: string, command: readonly string[], signal: AbortSignal): Promise<ShortOutcome>;
}

export interface ExecServiceOptions {
  readonly connection: NatsConnection;
  readonly node: string;
  readonly host: ExecHost;
  /** The service's own folder, made when it is not there. */
  readonly scratchDir: string;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  /** How often it is asked whether a session's client is still there. Default 10,000. */
  readonly presenceIntervalMs?: number;
}

export const SESSIONS_PER_CONTAINER = 32;
const PRESENCE_INTERVAL_MS = 10_000;
/** One look may fall into the moment in which a client is connecting again. */
const ABSENCES_UNTIL_GONE = 2;
const QUIESCE_DEADLINE_MS = 15_000;

/** Answers `exec` requests of this node until it is disposed or `signal` aborts. */
export async function serveExec(options: ExecServiceOptions): Promise<ExecService> {
  options.signal.throwIfAborted();
  const scratchDir = resolve(options.scratchDir);
  await endLeftovers(scratchDir, options.logger);
  const service = new Service({ ...options, scratchDir });
  // The answer to this passes the server after our subscription has: from here on, requests are answered.
  await options.connection.flush();
  return service;
}

interface Visit {
  readonly leaving: AbortController;
  readonly ended: Promise<boolean>;
}

class Service implements ExecService {
  readonly #options: ExecServiceOptions;
  readonly #sessions = new Map<string, ExecSession>();
  /** By container. */
  readonly #visits = new Map<string, Set<Visit>>();
  /** Containers that admit nobody, and why. */
  readonly #barred = new Map<string, string>();
  readonly #stopping = new AbortController();
  readonly #requests: Subscription;
  readonly #onAbort: () => void;

  constructor(options: ExecServiceOptions) {
    this.#options = options;
    const { connection, node, signal } = options;
    this.#requests = connection.subscribe(execSubject(node), {
      callback: (error, message) => {
        if (error === null) void this.#serve(message);
        else options.logger.error({ err: error }, "exec requests cannot be received");
      },
    });
    this.#onAbort = (): void => this.#stop();
    signal.addEventListener("abort", this.#onAbort);
    void this.#watchPresence(this.#stopping.signal);
    void this.#watchConnection();
  }

  async quiesce(containerId: string, graceMs: number, reason: string): Promise<void> {
    this.#barred.set(containerId, reason);
    const sessions = [...this.#sessions.values()].filter((session) => session.containerId === containerId);
    const visits = [...(this.#visits.get(containerId) ?? [])];
    for (const visit of visits) visit.leaving.abort(new GodwitError("cancelled", reason));
    if (sessions.length + visits.length === 0) return;
    const ended = Promise.all([...sessions, ...visits].map(({ ended }) => ended));
    await withDeadline(ended, graceMs);
    for (const session of sessions) session.end(reason);
    const clean = await withDeadline(ended, QUIESCE_DEADLINE_MS);
    if (clean === undefined || clean.includes(false)) {
      throw new GodwitError("deadline", `commands run by exec in ${containerId} could not be ended`);
    }
  }

  isBusy(containerId: string): boolean {
    return this.#sessions.values().some((session) => session.containerId === containerId);
  }

  admit(containerId: string): void {
    this.#barred.delete(containerId);
  }

  async visit<T>(containerId: string, what: (leaving: AbortSignal) => Promise<T>): Promise<T> {
    this.#checkAdmitted(containerId);
    const leaving = new AbortController();
    const { promise: ended, resolve } = Promise.withResolvers<boolean>();
    const visit: Visit = { leaving, ended };
    const visits = this.#visits.get(containerId) ?? new Set();
    this.#visits.set(containerId, visits.add(visit));
    try {
      return await what(leaving.signal);
    } finally {
      visits.delete(visit);
      if (visits.size === 0) this.#visits.delete(containerId);
      resolve(true);
    }
  }

  command(containerId: string, command: readonly string[], signal: AbortSignal): Promise<ShortOutcome> {
    const open = ExecOpen.fromPartial({ containerId, command: [...command] });
    return runShortCommand(() => this.#start(open, newSessionId()), signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop();
    const visits = [...this.#visits.values()].flatMap((of) => [...of]);
    await Promise.all([...this.#sessions.values(), ...visits].map(({ ended }) => ended));
  }

  #stop(): void {
    this.#options.signal.removeEventListener("abort", this.#onAbort);
    this.#stopping.abort();
    this.#requests.unsubscribe();
    for (const session of this.#sessions.values()) session.end("the agent of the node is stopping");
    for (const visits of this.#visits.values())
      for (const { leaving } of visits)
        leaving.abort(new GodwitError("cancelled", "the agent of the node is stopping"));
  }

  async #serve(message: Msg): Promise<void> {
    const answer = (opened: Partial<ExecOpened>): void => {
      message.respond(ExecOpened.encode(ExecOpened.fromPartial(opened)).finish());
    };
    let session: ExecSession | undefined;
    let opened = false;
    try {
      const open = decodeOpen(message.data);
      const inputSubject = execInputSubject(this.#options.node, newSessionId());
      session = this.#admitSession(open, inputSubject);
      await session.run(
        () => this.#start(open, inputSubject),
        () => {
          opened = true;
          answer({ inputSubject });
        },
      );
    } catch (error) {
      const { code, message: text } = GodwitError.from(error);
      if (code === "internal") this.#options.logger.error({ err: error }, "an exec failed");
      if (!opened && !this.#options.connection.isClosed()) answer({ error: text });
    } finally {
      if (session !== undefined) this.#sessions.delete(session.id);
    }
  }

  /** Throws unless the container is here, runs, and takes one more. From here on, `quiesce` waits for the session. */
  #admitSession(open: ExecOpen, inputSubject: string): ExecSession {
    checkRequest(open);
    const { containerId } = open;
    this.#checkAdmitted(containerId);
    const others = [...this.#sessions.values()].filter((session) => session.containerId === containerId);
    if (others.length >= SESSIONS_PER_CONTAINER) {
      throw new GodwitError(
        "exhausted",
        `${SESSIONS_PER_CONTAINER} commands run in ${containerId} already; end one`,
      );
    }
    const { connection, logger } = this.#options;
    const session = new ExecSession({ id: inputSubject, open, connection, inputSubject, logger });
    this.#sessions.set(session.id, session);
    return session;
  }

  /** Throws unless the container is here, runs, and is not about to be frozen. */
  #checkAdmitted(containerId: string): void {
    const known = this.#options.host.lookup(containerId);
    if (this.#stopping.signal.aborted)
      throw new GodwitError("unavailable", "the agent of the node is stopping");
    if (known === undefined)
      throw new GodwitError("not-found", `container ${containerId} is not on this node`);
    const barred = this.#barred.get(containerId);
    if (barred !== undefined) throw new GodwitError("unavailable", barred);
    if (known.state !== "running") {
      throw new GodwitError(
        "refused",
        `container ${containerId} takes no commands: ${known.detail || known.state}`,
      );
    }
  }

  async #start(open: ExecOpen, inputSubject: string): Promise<RuncExec> {
    const { host, scratchDir, logger } = this.#options;
    const { runcPath, runcArguments } = host;
    const { containerId, stdin } = open;
    const process = await processOf(open, host.defaults(containerId), () =>
      initPidOf(runcPath, runcArguments, containerId, this.#stopping.signal),
    );
    return RuncExec.start({
      containerId,
      process,
      stdin,
      folder: join(scratchDir, inputSubject.slice(inputSubject.lastIndexOf(".") + 1)),
      runcPath,
      runcArguments,
      logger,
    });
  }

  /** A client that died without a word is noticed by nobody listening to its session's output. */
  async #watchPresence(signal: AbortSignal): Promise<void> {
    const absences = new Map<string, number>();
    while (!signal.aborted) {
      await delay(this.#options.presenceIntervalMs ?? PRESENCE_INTERVAL_MS, undefined, { signal }).catch(
        () => undefined,
      );
      if (signal.aborted) return;
      const sessions = [...this.#sessions.values()];
      await Promise.all(
        sessions.map(async (session) => {
          const present = await hasListener(this.#options.connection, session.outputSubject);
          const absent = present ? 0 : (absences.get(session.id) ?? 0) + 1;
          absences.set(session.id, absent);
          if (absent >= ABSENCES_UNTIL_GONE) session.end("the client has gone");
        }),
      );
      for (const id of absences.keys()) if (!this.#sessions.has(id)) absences.delete(id);
    }
  }

  /** What was on its way when the connection broke may be lost, in either direction: better an error than a hole. */
  async #watchConnection(): Promise<void> {
    for await (const { type } of this.#options.connection.status()) {
      if (this.#stopping.signal.aborted) return;
      if (type !== "reconnect" && type !== "close") continue;
      for (const session of this.#sessions.values())
        session.end("the node's connection to NATS was interrupted");
    }
  }
}

const newSessionId = (): string => randomBytes(8).toString("hex");

function decodeOpen(bytes: Uint8Array): ExecOpen {
  try {
    return ExecOpen.decode(bytes);
  } catch (cause) {
    throw new GodwitError("invalid", "the request is no ExecOpen", { cause });
  }
}

/** Undefined when it takes longer. */
async function withDeadline<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  const abort = new AbortController();
  try {
    const late = delay(ms, undefined, { signal: abort.signal });
    late.catch(() => undefined);
    return await Promise.race([promise, late]);
  } finally {
    abort.abort();
  }
}
