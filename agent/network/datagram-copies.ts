/**
 * One datagram that was heard at two places on its way is to reach its receiver once: of TCP's the receiver knows which it
 * has, of these nobody does. Pure, on what packet sockets hear: a struct virtio_net_hdr and an Ethernet frame.
 */
import { VNET_HEADER_BYTES } from "../native/packet-socket.ts";

const ETHERNET_BYTES = 14;
const ETHERTYPE_AT = VNET_HEADER_BYTES + 12;
const ETHERTYPE_IPV4 = 0x0800;
const IP_AT = VNET_HEADER_BYTES + ETHERNET_BYTES;
const LEAST_IP_BYTES = 20;
const UDP = 17;
const FRAGMENT_OFFSET = 0x1fff;
const CHECKSUM_AT = 6;
const CHECKSUM_BYTES = 2;

/** The same for all copies: the checksum may be left to the hardware at one place and be there at another. */
function printOf(packet: Buffer): string | undefined {
  if (packet.byteLength < IP_AT + LEAST_IP_BYTES || packet.readUInt16BE(ETHERTYPE_AT) !== ETHERTYPE_IPV4)
    return undefined;
  const head = packet.subarray(IP_AT);
  if (head.readUInt8(9) !== UDP) return undefined;
  // Frames may be padded.
  const datagram = Buffer.from(head.subarray(0, head.readUInt16BE(2)));
  const checksumAt = 4 * (head.readUInt8(0) & 0x0f) + CHECKSUM_AT;
  if ((head.readUInt16BE(6) & FRAGMENT_OFFSET) === 0)
    datagram.fill(0, checksumAt, checksumAt + CHECKSUM_BYTES);
  return datagram.toString("latin1");
}

/** Those of which there is no copy among the others. Two that are alike and one copy leave one. */
export function withoutCopies(packets: readonly Buffer[], others: Iterable<Buffer>): Buffer[] {
  const counts = new Map<string, number>();
  for (const other of others) {
    const print = printOf(other);
    if (print !== undefined) counts.set(print, (counts.get(print) ?? 0) + 1);
  }
  if (counts.size === 0) return [...packets];
  return packets.filter((packet) => {
    const print = printOf(packet);
    const count = (print === undefined ? undefined : counts.get(print)) ?? 0;
    if (print === undefined || count === 0) return true;
    counts.set(print, count - 1);
    return false;
  });
}
