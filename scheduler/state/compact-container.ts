/**
 * A container as the state keeps it. It reads and is written like the message, and takes a fraction of its memory: what
 * follows from its number on the network is not kept, and what hardly any container has is kept by those that have it.
 */
import type { Container } from "../../proto/gen/godwit/v1/log.ts";
import { addressOf, macOf } from "../model/network.ts";

type Exceptional = Required<
  Pick<
    Container,
    | "restartGeneration"
    | "removing"
    | "removeForce"
    | "migrationId"
    | "placementFailure"
    | "retiring"
    | "origins"
    | "preemption"
    | "releasedEpoch"
    | "nominatedNode"
  >
>;

const ORDINARY: Readonly<Exceptional> = Object.freeze({
  restartGeneration: 0,
  removing: false,
  removeForce: false,
  migrationId: "",
  placementFailure: "",
  retiring: false,
  origins: undefined,
  preemption: undefined,
  releasedEpoch: 0,
  nominatedNode: "",
});
const KEYS = Object.keys(ORDINARY) as (keyof Exceptional)[];

type Own = Pick<
  Container,
  "id" | "spec" | "desired" | "allocation" | "createdAtMs" | "service" | "serviceRevision"
>;

export class CompactContainer implements Container {
  readonly id: string;
  spec: Container["spec"];
  desired: Container["desired"];
  allocation: Container["allocation"];
  createdAtMs: number;
  service: string;
  serviceRevision: number;
  readonly #host: number;
  #exceptional: Readonly<Exceptional> = ORDINARY;

  constructor(own: Own, host: number) {
    this.id = own.id;
    this.spec = own.spec;
    this.desired = own.desired;
    this.allocation = own.allocation;
    this.createdAtMs = own.createdAtMs;
    this.service = own.service;
    this.serviceRevision = own.serviceRevision;
    this.#host = host;
  }

  /** @param host of its address */
  static from(given: Container, host: number): CompactContainer {
    const compact = new CompactContainer(given, host);
    for (const key of KEYS) compact.#set(key, given[key] as Exceptional[typeof key]);
    return compact;
  }

  /** Number of its address. */
  get host(): number {
    return this.#host;
  }
  /** All but its specification and what follows from its number. */
  bare(): Container {
    const { allocation, createdAtMs, desired, id, service, serviceRevision } = this;
    const own = { id, desired, allocation, createdAtMs, service, serviceRevision };
    return { ...this.#exceptional, ...own, spec: undefined, address: "", mac: "" };
  }

  get address(): string {
    return addressOf(this.#host);
  }
  get mac(): string {
    return macOf(this.#host);
  }

  get restartGeneration(): Exceptional["restartGeneration"] {
    return this.#exceptional.restartGeneration;
  }
  set restartGeneration(value) {
    this.#set("restartGeneration", value);
  }
  get removing(): Exceptional["removing"] {
    return this.#exceptional.removing;
  }
  set removing(value) {
    this.#set("removing", value);
  }
  get removeForce(): Exceptional["removeForce"] {
    return this.#exceptional.removeForce;
  }
  set removeForce(value) {
    this.#set("removeForce", value);
  }
  get migrationId(): Exceptional["migrationId"] {
    return this.#exceptional.migrationId;
  }
  set migrationId(value) {
    this.#set("migrationId", value);
  }
  get placementFailure(): Exceptional["placementFailure"] {
    return this.#exceptional.placementFailure;
  }
  set placementFailure(value) {
    this.#set("placementFailure", value);
  }
  get retiring(): Exceptional["retiring"] {
    return this.#exceptional.retiring;
  }
  set retiring(value) {
    this.#set("retiring", value);
  }
  get origins(): Exceptional["origins"] {
    return this.#exceptional.origins;
  }
  set origins(value) {
    this.#set("origins", value);
  }
  get preemption(): Exceptional["preemption"] {
    return this.#exceptional.preemption;
  }
  set preemption(value) {
    this.#set("preemption", value);
  }
  get releasedEpoch(): Exceptional["releasedEpoch"] {
    return this.#exceptional.releasedEpoch;
  }
  set releasedEpoch(value) {
    this.#set("releasedEpoch", value);
  }
  get nominatedNode(): Exceptional["nominatedNode"] {
    return this.#exceptional.nominatedNode;
  }
  set nominatedNode(value) {
    this.#set("nominatedNode", value);
  }

  #set<K extends keyof Exceptional>(key: K, value: Exceptional[K]): void {
    if (this.#exceptional[key] === value) return;
    const changed = { ...this.#exceptional, [key]: value };
    this.#exceptional = KEYS.every((one) => changed[one] === ORDINARY[one]) ? ORDINARY : changed;
  }
}
