/** Branded identifiers: a node's name cannot be passed where a container's id is wanted. */
declare const brand: unique symbol;
type Branded<T, B extends string> = T & { readonly [brand]: B };

export type NodeId = Branded<string, "NodeId">;
export type ContainerId = Branded<string, "ContainerId">;
export type MigrationId = Branded<string, "MigrationId">;

/** Names of nodes and containers: a DNS label, so that it fits a subject token, a cgroup and a host name. */
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** Ids made by Godwit: 16 lower-case hexadecimal digits. */
const ID = /^[0-9a-f]{16}$/;

export const isName = (text: string): boolean => NAME.test(text);
export const isId = (text: string): boolean => ID.test(text);
