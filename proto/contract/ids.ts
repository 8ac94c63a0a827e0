/** Names of nodes and containers: a DNS label, so that it fits a subject token, a cgroup and a host name. */
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** Ids made by Godwit: 16 lower-case hexadecimal digits. */
const ID = /^[0-9a-f]{16}$/;

export const isName = (text: string): boolean => NAME.test(text);
export const isId = (text: string): boolean => ID.test(text);
