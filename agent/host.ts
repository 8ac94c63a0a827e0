import type { NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";

import type { AgentConfig } from "./config.ts";
import type { CheckpointStore } from "./checkpoints/store.ts";
import type { CgroupTree } from "./container/cgroup.ts";
import type { Runc } from "./container/runc.ts";
import type { ExecService } from "./exec/exec-service.ts";
import type { CostBook } from "./forecast/cost-book.ts";
import type { HostFence } from "./fence/host-fence.ts";
import type { HeldStore } from "./keep/held-store.ts";
import type { ImageStore } from "./image/mod.ts";
import type { OverlayNetwork } from "./network/overlay.ts";
import type { PublishedPorts } from "./network/published-ports.ts";
import type { ShimClient } from "./shim/client.ts";
import type { Turns } from "./migrate/turns.ts";
import type { StreamIdentity } from "./stream/identity.ts";
import type { WriteTracking } from "./tracking/support.ts";

/** What this host gives to every container on it. */
export interface Host {
  readonly config: AgentConfig;
  readonly connection: NatsConnection;
  readonly logger: Logger;
  readonly runc: Runc;
  readonly criuPath: string;
  readonly criuVersion: string;
  /** How the memory that a container writes while it is copied is found. */
  readonly writeTracking: WriteTracking;
  readonly cgroups: CgroupTree;
  /** Stops every container of this host when its lease ends. */
  readonly fence: HostFence;
  readonly images: ImageStore;
  /** What is held of the memory of containers that have left. */
  readonly held: HeldStore;
  /** Of other nodes' containers. */
  readonly checkpoints: CheckpointStore;
  readonly shim: ShimClient;
  /** By which this node proves to others that it is the one that the cluster means. */
  readonly identity: StreamIdentity;
  readonly network: OverlayNetwork;
  readonly ports: PublishedPorts;
  readonly costs: CostBook;
  /** Of moves that copy, and of containers that are to stand still. */
  readonly turns: { readonly toCopy: Turns; readonly toStandStill: Turns };
  /** Commands in containers, and their end before a freeze; see ExecService. */
  readonly exec: () => Pick<ExecService, "quiesce" | "admit" | "isBusy" | "visit" | "command">;
}
