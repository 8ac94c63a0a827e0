/**
 * A container's specification as the state keeps it: its name, and a template that all have in common whose
 * specifications differ in nothing else. It reads like the message and cannot be written to.
 */
import { ContainerSpec } from "../../proto/gen/godwit/v1/spec.ts";

interface Template {
  /** Without a name; its maps in the order of their keys. */
  readonly spec: ContainerSpec;
  readonly key: string;
  /** Containers in the index that have it. */
  users: number;
}

export const sorted = <T>(map: { [key: string]: T }): { [key: string]: T } =>
  Object.fromEntries(Object.entries(map).toSorted(([a], [b]) => (a < b ? -1 : 1)));

const frozen = <T>(value: T): T => {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  Object.values(value).forEach(frozen);
  return Object.freeze(value);
};

export class CompactSpec implements ContainerSpec {
  readonly name: string;
  readonly #template: Template;

  constructor(name: string, template: Template) {
    this.name = name;
    this.#template = template;
  }

  static templateOf(spec: CompactSpec): Template {
    return spec.#template;
  }
  /** Without a name; the same for all that have it in common. */
  get template(): ContainerSpec {
    return this.#template.spec;
  }

  get image(): ContainerSpec["image"] {
    return this.#template.spec.image;
  }
  get imageDigest(): ContainerSpec["imageDigest"] {
    return this.#template.spec.imageDigest;
  }
  get command(): ContainerSpec["command"] {
    return this.#template.spec.command;
  }
  get env(): ContainerSpec["env"] {
    return this.#template.spec.env;
  }
  get workingDir(): ContainerSpec["workingDir"] {
    return this.#template.spec.workingDir;
  }
  get user(): ContainerSpec["user"] {
    return this.#template.spec.user;
  }
  get limits(): ContainerSpec["limits"] {
    return this.#template.spec.limits;
  }
  get restart(): ContainerSpec["restart"] {
    return this.#template.spec.restart;
  }
  get migration(): ContainerSpec["migration"] {
    return this.#template.spec.migration;
  }
  get blackoutBudgetMs(): ContainerSpec["blackoutBudgetMs"] {
    return this.#template.spec.blackoutBudgetMs;
  }
  get labels(): ContainerSpec["labels"] {
    return this.#template.spec.labels;
  }
  get node(): ContainerSpec["node"] {
    return this.#template.spec.node;
  }
  get stopGraceSeconds(): ContainerSpec["stopGraceSeconds"] {
    return this.#template.spec.stopGraceSeconds;
  }
  get noCures(): ContainerSpec["noCures"] {
    return this.#template.spec.noCures;
  }
  get stopSignal(): ContainerSpec["stopSignal"] {
    return this.#template.spec.stopSignal;
  }
  get constraints(): ContainerSpec["constraints"] {
    return this.#template.spec.constraints;
  }
  get affinity(): ContainerSpec["affinity"] {
    return this.#template.spec.affinity;
  }
  get antiAffinity(): ContainerSpec["antiAffinity"] {
    return this.#template.spec.antiAffinity;
  }
  get ports(): ContainerSpec["ports"] {
    return this.#template.spec.ports;
  }
  get strategy(): ContainerSpec["strategy"] {
    return this.#template.spec.strategy;
  }
  get project(): ContainerSpec["project"] {
    return this.#template.spec.project;
  }
  get priority(): ContainerSpec["priority"] {
    return this.#template.spec.priority;
  }
  get preemption(): ContainerSpec["preemption"] {
    return this.#template.spec.preemption;
  }
  get health(): ContainerSpec["health"] {
    return this.#template.spec.health;
  }
  get backoff(): ContainerSpec["backoff"] {
    return this.#template.spec.backoff;
  }
  get failover(): ContainerSpec["failover"] {
    return this.#template.spec.failover;
  }
  get checkpointEverySeconds(): ContainerSpec["checkpointEverySeconds"] {
    return this.#template.spec.checkpointEverySeconds;
  }
}

export class Templates {
  readonly #byKey = new Map<string, Template>();

  /** Each of those that somebody has, without a name. */
  *specs(): Generator<ContainerSpec> {
    for (const { spec } of this.#byKey.values()) yield spec;
  }

  /** To be entered (`count`) with the container that it is for. */
  compact(given: ContainerSpec): CompactSpec {
    return given instanceof CompactSpec ? given : new CompactSpec(given.name, this.#template(given));
  }
  /** The same for a template that many have, by their names. */
  compactor(template: ContainerSpec): (name: string) => CompactSpec {
    const shared = this.#template(template);
    return (name) => new CompactSpec(name, shared);
  }

  #template(given: ContainerSpec): Template {
    // With maps in the order in which they were given: who writes them otherwise shares with others that do.
    const key = JSON.stringify({ ...given, name: "" });
    let template = this.#byKey.get(key);
    if (template === undefined) {
      const { env, labels, ...rest } = ContainerSpec.fromPartial(given);
      const spec = { ...rest, name: "", env: sorted(env), labels: sorted(labels) };
      this.#byKey.set(key, (template = { spec: frozen(spec), key, users: 0 }));
    }
    return template;
  }

  /** Enters a container's specification, or takes it out: a template is kept for as long as somebody has it. */
  count(spec: ContainerSpec | undefined, sign: 1 | -1): void {
    if (!(spec instanceof CompactSpec)) return;
    const template = CompactSpec.templateOf(spec);
    template.users += sign;
    if (template.users > 0) this.#byKey.set(template.key, template);
    else this.#byKey.delete(template.key);
  }
}
