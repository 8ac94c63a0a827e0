/** The containers' network: who gets which address. */

export const CONTAINER_CIDR = "10.88.0.0/16";
export const PREFIX_LENGTH = 16;
export const VXLAN_ID = 4788;
/** What is left of an Ethernet frame inside VXLAN over IPv4: 1500 - 20 - 8 - 8 - 14. */
export const OVERLAY_MTU = 1450;

/** Host numbers of containers: 10.88.0.2 to 10.88.254.254. 10.88.255.0/24 is for the nodes. */
export const FIRST_HOST = 2;
export const LAST_HOST = 254 * 256 + 254;
export const MAX_NODES = 254;

const octets = (host: number): readonly [number, number, number, number] => [10, 88, host >>> 8, host & 255];

export const addressOf = (host: number): string => octets(host).join(".");

/** A locally administered address that follows from the IPv4 address, so it goes with the container too. */
export const macOf = (host: number): string =>
  [0x02, 0x57, ...octets(host)].map((byte) => byte.toString(16).padStart(2, "0")).join(":");

/** Inverse of `addressOf`. */
export const hostOf = (address: string): number => {
  const parts = address.split(".");
  return Number(parts[2]) * 256 + Number(parts[3]);
};

/** A node's own address on the containers' network, with prefix length. */
export const nodeAddress = (index: number): string => `10.88.255.${index + 1}/${PREFIX_LENGTH}`;

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
