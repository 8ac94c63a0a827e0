/** Addresses of the container network as a frame has them. Pure. */

/** @param address IPv4, with or without prefix length */
export function addressBytes(address: string): Buffer {
  const [host = ""] = address.split("/");
  return Buffer.from(host.split(".").map(Number));
}

/** @param mac such as "02:57:0a:50:00:02" */
export const macBytes = (mac: string): Buffer => Buffer.from(mac.replaceAll(":", ""), "hex");
