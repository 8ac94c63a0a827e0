/** The containers' network: who gets which address. */

export const CONTAINER_CIDR = "10.80.0.0/12";
export const PREFIX_LENGTH = 12;
export const VXLAN_ID = 4788;
/** What is left of an Ethernet frame inside VXLAN over IPv4: 1500 - 20 - 8 - 8 - 14. */
export const OVERLAY_MTU = 1450;

/** Host numbers of containers: 10.80.0.2 to 10.95.223.254, more than a million. 10.95.224.0/19 is for the nodes. */
export const FIRST_HOST = 2;
export const LAST_HOST = (15 << 16) + (223 << 8) + 254;
/** Addresses of nodes in one /24: none ends in .0 or .255. */
const NODES_PER_OCTET = 250;
export const MAX_NODES = 32 * NODES_PER_OCTET;

const octets = (host: number): readonly [number, number, number, number] => [
  10,
  80 + (host >>> 16),
  (host >>> 8) & 255,
  host & 255,
];

export const addressOf = (host: number): string => octets(host).join(".");

/** A locally administered address that follows from the IPv4 address, so it goes with the container too. */
export const macOf = (host: number): string =>
  [0x02, 0x57, ...octets(host)].map((byte) => byte.toString(16).padStart(2, "0")).join(":");

/** Inverse of `addressOf`. */
export const hostOf = (address: string): number => {
  const [, second = 0, third = 0, last = 0] = address.split(".").map(Number);
  return ((second - 80) << 16) + (third << 8) + last;
};

/** A node's own address on the containers' network, with prefix length. */
export const nodeAddress = (index: number): string =>
  `10.95.${224 + Math.floor(index / NODES_PER_OCTET)}.${(index % NODES_PER_OCTET) + 1}/${PREFIX_LENGTH}`;

/** The first host number from `host` on that ends in neither .0 nor .255, which some software refuses. */
export const usableHost = (host: number): number => {
  const low = host & 255;
  if (low === 255) return host + 2;
  return low === 0 ? host + 1 : host;
};

const IPV4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;
export const isIpv4 = (text: string): boolean => {
  const match = IPV4.exec(text);
  return (
    match !== null && match.slice(1).every((part) => Number(part) <= 255 && String(Number(part)) === part)
  );
};
