import { closeSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

import { GodwitError } from "../../proto/contract/error.ts";
import { endFilling } from "../checkpoint/lazy-pages.ts";
import type { Host } from "../host.ts";
import type { ContainerRecord, InitProcess } from "../model/record.ts";
import { removeTree, unmountBelow } from "../native/remove-tree.ts";
import { isAlive, processStat } from "../native/process.ts";
import { WatchedPaths } from "../obstacles/watches.ts";
import { type Attachment, attachmentOf, prepareAttachment, removeAttachment } from "../network/attachment.ts";
import { commandOf, ociConfig, shmBytes, stopSignalOf } from "./bundle.ts";
import { keepDevMounts, makeDevMounts } from "./dev-mounts.ts";
import { NetworkPlug } from "../network/plug.ts";
import type { ContainerCgroup } from "./cgroup.ts";
import { OutputPipes } from "./output-pipes.ts";
import { type ContainerPaths, containerPaths } from "./paths.ts";
import { mountOverlay, prepareOverlay, resolveUser } from "./rootfs.ts";

const DEFAULT_STOP_GRACE_SECONDS = 10;

/** One container's presence on this host: its folders, mounts, network, cgroup and processes. */
export class ContainerRuntime {
  /** Where the files are that its processes watch. */
  readonly watchedPaths = new WatchedPaths();
  readonly id: string;
  readonly paths: ContainerPaths;
  readonly attachment: Attachment;
  readonly cgroup: ContainerCgroup;
  readonly #host: Host;
  /** As long as one reader of a pipe lives, the container's writes do not fail: the shim's, or this one. */
  #spareReaders: readonly number[] = [];
  #plug: NetworkPlug | undefined;

  constructor(host: Host, id: string) {
    this.#host = host;
    this.id = id;
    this.paths = containerPaths(host.config, id);
    this.attachment = attachmentOf(id);
    this.cgroup = host.cgroups.container(this.paths.cgroup);
  }

  async makeFolders(): Promise<void> {
    for (const folder of [this.paths.dir, this.paths.bundle, this.paths.log, this.paths.data]) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
    }
  }

  /** Starts the container from its image and writable layer; resolves when it runs. */
  async start(record: ContainerRecord, signal: AbortSignal): Promise<InitProcess> {
    const init = await this.create(record, signal);
    await this.begin(record, signal);
    return init;
  }

  /** All of a start but the container's first instruction, and without its address. */
  async create(record: ContainerRecord, signal: AbortSignal): Promise<InitProcess> {
    const { lowerDirs } = await this.#host.images.ensure(record.image, signal);
    await this.tearDown();
    await this.makeFolders();
    await mountOverlay({
      lower: lowerDirs,
      upper: this.paths.upper,
      work: this.paths.work,
      target: this.paths.rootfs,
    });
    await makeDevMounts(this.paths, shmBytes(record.spec.limits?.memoryBytes ?? 0));
    await this.prepareNetwork(record);
    await this.writeBundle(record, this.paths.rootfs);
    signal.throwIfAborted();
    using pipes = new OutputPipes();
    const pid = await this.#host.runc.create(
      this.id,
      this.paths.bundle,
      [pipes.writeStdout, pipes.writeStderr],
      signal,
    );
    const init = this.initProcess(pid);
    await this.attachOutput(pipes, init);
    return init;
  }

  /** What was created runs from here on, with its address. */
  async begin(record: ContainerRecord, signal: AbortSignal): Promise<void> {
    (await this.plug(record)).plugIn();
    await this.#host.runc.start(this.id, signal);
  }

  /**
   * Makes the cgroups, the network namespace and runc's state for a container that will be restored: runc
   * creates a placeholder with the same configuration, whose init waits and is never started. All that runc
   * sets up (device rules, limits, namespaces of the host's kind) is thereby right for this host.
   */
  async createPlaceholder(record: ContainerRecord, pipes: OutputPipes, signal: AbortSignal): Promise<number> {
    const { lowerDirs } = await this.#host.images.ensure(record.image, signal);
    await mountOverlay({
      lower: lowerDirs,
      upper: this.paths.placeholderUpper,
      work: this.paths.placeholderWork,
      target: this.paths.placeholderRootfs,
    });
    await keepDevMounts(this.paths, shmBytes(record.spec.limits?.memoryBytes ?? 0));
    await this.prepareNetwork(record);
    await this.writeBundle(record, this.paths.placeholderRootfs);
    return await this.#host.runc.create(
      this.id,
      this.paths.bundle,
      [pipes.writeStdout, pipes.writeStderr],
      signal,
    );
  }

  /** Ends CRIU and the tasks of a restore that was cut off before they ran; the image stays. */
  async discardHalfRestored(): Promise<void> {
    await this.cgroup.killAll();
    endFilling(this.paths.lazyPages);
    await this.#detachOutput();
    await unmountBelow(this.paths.rootfs);
    await this.removePlaceholder();
    await this.#host.runc.forget(this.id);
  }

  async removePlaceholder(): Promise<void> {
    await unmountBelow(this.paths.placeholderRootfs);
    for (const folder of [
      this.paths.placeholderRootfs,
      this.paths.placeholderUpper,
      this.paths.placeholderWork,
    ]) {
      await removeTree(folder);
    }
  }

  /** Mounts the root file system over the writable layer as it is now. */
  async mountRootfs(record: ContainerRecord, signal: AbortSignal): Promise<void> {
    const mountIt = await this.prepareRootfs(record, signal);
    mountIt();
  }

  /** For a writable layer that is still to be filled. Answers what mounts it when it is. */
  async prepareRootfs(record: ContainerRecord, signal: AbortSignal): Promise<() => void> {
    const { lowerDirs } = await this.#host.images.ensure(record.image, signal);
    return await prepareOverlay({
      lower: lowerDirs,
      upper: this.paths.upper,
      work: this.paths.work,
      target: this.paths.rootfs,
    });
  }

  async prepareNetwork(record: ContainerRecord): Promise<void> {
    if (!this.#host.network.ready) {
      throw new GodwitError("unavailable", "the container network of this host is not set up yet");
    }
    await this.#host.ports.check(record.spec.ports);
    this.#dropPlug();
    await prepareAttachment(this.attachment, {
      address: record.address,
      mac: record.mac,
      mtu: this.#host.network.mtu,
    });
  }

  /** The container's connection to the container network; its namespace must exist. */
  async plug(record: ContainerRecord): Promise<NetworkPlug> {
    this.#plug ??= await NetworkPlug.open(this.attachment, record.mac);
    return this.#plug;
  }

  #dropPlug(): void {
    this.#plug?.[Symbol.dispose]();
    this.#plug = undefined;
  }

  async writeBundle(record: ContainerRecord, rootfs: string): Promise<void> {
    const config = record.image.config ?? {
      entrypoint: [],
      cmd: [],
      env: [],
      workingDir: "",
      user: "",
      stopSignal: "",
    };
    if (commandOf(record.spec, config).length === 0) {
      throw new GodwitError("invalid", `the image ${record.image.name} names no command; give one after --`);
    }
    const user = await resolveUser(rootfs, record.spec.user || config.user);
    const bundle = ociConfig({
      spec: record.spec,
      image: config,
      rootfs,
      dev: this.paths.dev,
      shm: this.paths.shm,
      netnsPath: this.attachment.namespacePath,
      cgroupsPath: this.#host.cgroups.runcPath(this.paths.cgroup),
      user,
    });
    await writeFile(`${this.paths.bundle}/config.json`, JSON.stringify(bundle), { mode: 0o600 });
  }

  initProcess(pid: number): InitProcess {
    const stat = processStat(pid);
    if (stat === undefined)
      throw new GodwitError("internal", `the container's first process ${pid} has vanished`);
    return { pid, startTicks: stat.startTicks };
  }

  /** The shim reads the output from now on and records the exit of `init`. */
  async attachOutput(
    pipes: OutputPipes,
    init: InitProcess,
    partial?: { o: string; e: string },
  ): Promise<void> {
    this.#dropSpareReaders();
    const [stdout, stderr] = (this.#spareReaders = pipes.takeReaders());
    await this.#attach(
      init,
      `/proc/${process.pid}/fd/${stdout}`,
      `/proc/${process.pid}/fd/${stderr}`,
      partial,
    );
  }

  /** After a restart of the agent or the shim: the pipes are found through the container's first process. */
  async reattachOutput(init: InitProcess): Promise<void> {
    const [stdout, stderr] = this.#spareReaders.map((descriptor) => `/proc/${process.pid}/fd/${descriptor}`);
    await this.#attach(init, stdout ?? `/proc/${init.pid}/fd/1`, stderr ?? `/proc/${init.pid}/fd/2`);
  }

  async #attach(
    init: InitProcess,
    stdout: string,
    stderr: string,
    partial?: { o: string; e: string },
  ): Promise<void> {
    await this.#host.shim.attach({
      container: this.id,
      dir: this.paths.log,
      initPid: init.pid,
      startTicks: init.startTicks,
      stdout,
      stderr,
      ...(partial === undefined ? {} : { partial }),
    });
  }

  isRunning(init: InitProcess): boolean {
    return isAlive(init.pid, init.startTicks);
  }

  /** Its stop signal, then SIGKILL after the grace; resolves when nothing of it runs. Its files stay. */
  async stop(record: ContainerRecord, init: InitProcess, signal: AbortSignal): Promise<void> {
    const graceMs = (record.spec.stopGraceSeconds || DEFAULT_STOP_GRACE_SECONDS) * 1000;
    const deadlineMs = performance.now() + graceMs;
    this.cgroup.thaw();
    if (this.isRunning(init))
      await this.#host.runc.kill(this.id, stopSignalOf(record.spec, record.image.config));
    while (this.isRunning(init) && performance.now() < deadlineMs && !signal.aborted) await delay(20);
    await this.tearDown();
  }

  /** Ends every process of it and takes away its mounts, network and cgroup. Its files stay. Idempotent. */
  async tearDown(): Promise<void> {
    await this.cgroup.killAll();
    await this.#detachOutput();
    this.#dropSpareReaders();
    this.#dropPlug();
    await removeAttachment(this.attachment);
    await unmountBelow(this.paths.dir);
    await this.removePlaceholder();
    endFilling(this.paths.lazyPages);
    await removeTree(this.paths.images);
    await this.#host.runc.forget(this.id);
    await this.cgroup.remove();
  }

  /** tearDown, and its files too: nothing is left of it. */
  async remove(): Promise<void> {
    await this.tearDown();
    await removeTree(this.paths.data);
    await removeTree(this.paths.dir);
  }

  async #detachOutput(): Promise<void> {
    try {
      await this.#host.shim.detach(this.id);
    } catch (error) {
      if (GodwitError.from(error).code !== "not-found") throw error;
    }
  }

  #dropSpareReaders(): void {
    for (const descriptor of this.#spareReaders) closeSync(descriptor);
    this.#spareReaders = [];
  }
}
