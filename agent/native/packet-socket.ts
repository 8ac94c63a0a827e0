import { close } from "node:fs";

import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";

/** A packet socket (packet(7)): Ethernet frames as they pass an interface, and frames put on one. */
const libc = koffi.load("libc.so.6");
const socket = libc.func("int socket(int domain, int type, int protocol)");
const bind = libc.func("int bind(int fd, const void *address, uint32_t length)");
const setsockopt = libc.func(
  "int setsockopt(int fd, int level, int name, const void *value, uint32_t length)",
);
const recvfrom = libc.func(
  "intptr_t recvfrom(int fd, _Out_ uint8_t *buffer, size_t length, int flags, _Out_ uint8_t *address, _Inout_ uint32_t *address_length)",
);
const sendto = libc.func(
  "intptr_t sendto(int fd, const void *buffer, size_t length, int flags, const void *address, uint32_t address_length)",
);

const AF_PACKET = 17;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
/** In network byte order, as the kernel wants it here. */
const ETH_P_ALL = 0x0300;
const SOL_SOCKET = 1;
const SOL_PACKET = 263;
const SO_ATTACH_FILTER = 26;
const SO_RCVBUFFORCE = 33;
const PACKET_VNET_HDR = 15;
const MSG_DONTWAIT = 0x40;
const MSG_TRUNC = 0x20;
const EAGAIN = 11;
const EINVAL = 22;
const ENETDOWN = 100;
const ADDRESS_BYTES = 20;
/** sll_pkttype of struct sockaddr_ll. */
const PACKET_TYPE_AT = 10;
const MAC_BYTES = 6;
/** struct virtio_net_hdr: what of checksums and segments was left to the hardware, which the socket hands on unchanged. */
export const VNET_HEADER_BYTES = 10;
/** The largest segment that a kernel hands on in one piece, and its head. */
export const FRAME_BYTES = VNET_HEADER_BYTES + 128 + 65_536;
/** Of packets that wait for a container, as the kernel counts them. One that gets more in a blackout loses the rest, as on any full link. */
export const HOLD_BYTES = 16 * 1024 * 1024;
/** No network delivers a packet that is older (RFC 1122: a segment lives two minutes at most), and nobody waits for its answer. */
export const LONGEST_HOLD_MS = 60_000;

export interface HeardPacket {
  /** A struct virtio_net_hdr and the Ethernet frame. */
  readonly packet: Buffer;
  /** This host sent it out by the interface. */
  readonly isOutgoing: boolean;
}

/** One instruction of a classic BPF program (linux/filter.h). */
type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, value: number];
const INSTRUCTION_BYTES = 8;
/** struct sock_fprog, in front of its program. */
const FPROG_BYTES = 16;
const LOAD_WORD = 0x20;
const LOAD_HALF = 0x28;
const LOAD_BYTE = 0x30;
const JUMP_EQUAL = 0x15;
const RETURN = 0x06;
const WHOLE = 0xffff_ffff;
/** SKF_AD_PKTTYPE: not of the frame, but which way it goes (linux/if_packet.h). */
const WAY = 0xffff_f004;
const OUTGOING = 4;
const ETHERTYPE_AT = 12;
const ETHERTYPE_IPV4 = 0x0800;
/** Of IPv4, behind the Ethernet header. */
const PROTOCOL_AT = 23;
const UDP = 17;

/** What is at a place of the frame has, or has not, this value. */
interface Condition {
  readonly load: number;
  readonly at: number;
  readonly value: number;
  readonly isNot?: boolean;
}

/** All frames for an address, its UDP alone, or only what comes in by the interface. */
export type Heard = "all" | "datagrams" | "incoming";

const CONDITIONS: Record<Heard, readonly Condition[]> = {
  all: [],
  datagrams: [
    { load: LOAD_HALF, at: ETHERTYPE_AT, value: ETHERTYPE_IPV4 },
    { load: LOAD_BYTE, at: PROTOCOL_AT, value: UDP },
  ],
  incoming: [{ load: LOAD_WORD, at: WAY, value: OUTGOING, isNot: true }],
};

function programFor(conditions: readonly Condition[]): Instruction[] {
  const checks = conditions.flatMap(({ load, at, value, isNot = false }, index): Instruction[] => {
    // Past the rest of the conditions, and past what takes the frame.
    const toRefusal = 2 * (conditions.length - 1 - index) + 1;
    return [[load, 0, 0, at], isNot ? [JUMP_EQUAL, toRefusal, 0, value] : [JUMP_EQUAL, 0, toRefusal, value]];
  });
  return [...checks, [RETURN, 0, 0, WHOLE], [RETURN, 0, 0, 0]];
}

/** Hears frames of one interface from when it is told of whom on, and keeps them until they are taken. */
export class PacketSocket implements Disposable {
  readonly #descriptor: number;
  readonly #interface: Buffer;
  readonly #buffer = Buffer.alloc(FRAME_BYTES);
  readonly #from = Buffer.alloc(ADDRESS_BYTES);

  private constructor(descriptor: number, interfaceIndex: number) {
    this.#descriptor = descriptor;
    this.#interface = linkAddress(interfaceIndex);
  }

  /** Hears nothing yet. @param bytes what it keeps at most, as the kernel counts: some hundred bytes more for each frame */
  static open(interfaceIndex: number, bytes: number): PacketSocket {
    const descriptor = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (descriptor < 0) throw failed("socket(AF_PACKET)");
    using opened = new DisposableStack();
    const packets = opened.use(new PacketSocket(descriptor, interfaceIndex));
    packets.#set(SOL_PACKET, PACKET_VNET_HDR, number(1));
    packets.#set(SOL_SOCKET, SO_RCVBUFFORCE, number(bytes));
    packets.hearNothing();
    if (bind(descriptor, packets.#interface, ADDRESS_BYTES) !== 0) throw failed("bind(AF_PACKET)");
    opened.move();
    return packets;
  }

  /** Frames to this hardware address. @param mac 6 bytes */
  hear(mac: Buffer, what: Heard = "all"): void {
    this.#filter(
      programFor([
        { load: LOAD_WORD, at: 0, value: mac.readUInt32BE(0) },
        { load: LOAD_HALF, at: 4, value: mac.readUInt16BE(4) },
        ...CONDITIONS[what],
      ]),
    );
  }

  /** What was heard before stays to be taken. */
  hearNothing(): void {
    this.#filter([[RETURN, 0, 0, 0]]);
  }

  /** Puts a frame on the interface that the socket hears; answers whether that was up. */
  send(frame: Buffer): boolean {
    const message = Buffer.concat([Buffer.alloc(VNET_HEADER_BYTES), frame]);
    if (this.#put(message, this.#interface)) return true;
    if (koffi.errno() === ENETDOWN) return false;
    throw failed("sendto(AF_PACKET)");
  }

  /** All that was heard. */
  take(): HeardPacket[] {
    const heard: HeardPacket[] = [];
    for (let frame = this.#next(); frame !== undefined; frame = this.#next())
      if (frame.byteLength > 0)
        heard.push({
          packet: Buffer.from(frame),
          isOutgoing: this.#from.readUInt8(PACKET_TYPE_AT) === OUTGOING,
        });
    return heard;
  }

  /** Puts what a socket of this kind has taken on another interface; answers whether that took it. */
  putOn(interfaceIndex: number, frame: Buffer): boolean {
    return this.#put(frame, linkAddress(interfaceIndex));
  }

  /** Undefined: there is none. Empty: one that cannot be passed on, lost as one on a wire may be. */
  #next(): Buffer | undefined {
    const flags = MSG_DONTWAIT | MSG_TRUNC;
    const bytes = Number(
      recvfrom(this.#descriptor, this.#buffer, FRAME_BYTES, flags, this.#from, [ADDRESS_BYTES]),
    );
    if (bytes >= 0) return this.#buffer.subarray(0, bytes <= FRAME_BYTES ? bytes : 0);
    const errno = koffi.errno();
    if (errno === EAGAIN) return undefined;
    // Of a kind for which that header has no words; and once, after the interface was down for a moment.
    if (errno === EINVAL || errno === ENETDOWN) return this.#buffer.subarray(0, 0);
    throw failed("recvfrom(AF_PACKET)");
  }

  #put(message: Buffer, to: Buffer): boolean {
    return Number(sendto(this.#descriptor, message, message.byteLength, 0, to, ADDRESS_BYTES)) >= 0;
  }

  #filter(program: readonly Instruction[]): void {
    // One piece of memory with what points into it: it is not collected while the kernel reads it.
    const whole = Buffer.alloc(FPROG_BYTES + program.length * INSTRUCTION_BYTES);
    whole.writeUInt16LE(program.length, 0);
    whole.writeBigUInt64LE(BigInt(koffi.address(whole)) + BigInt(FPROG_BYTES), 8);
    for (const [number, [operation, ifTrue, ifFalse, value]] of program.entries()) {
      const at = FPROG_BYTES + number * INSTRUCTION_BYTES;
      whole.writeUInt16LE(operation, at);
      whole.writeUInt8(ifTrue, at + 2);
      whole.writeUInt8(ifFalse, at + 3);
      whole.writeUInt32LE(value, at + 4);
    }
    this.#set(SOL_SOCKET, SO_ATTACH_FILTER, whole.subarray(0, FPROG_BYTES));
  }

  #set(level: number, name: number, value: Buffer): void {
    if (setsockopt(this.#descriptor, level, name, value, value.byteLength) !== 0)
      throw failed("setsockopt(AF_PACKET)");
  }

  [Symbol.dispose](): void {
    // In a thread: the kernel takes some tens of milliseconds, until no CPU looks at the socket any more.
    close(this.#descriptor);
  }
}

/** struct sockaddr_ll, for all protocols. */
function linkAddress(interfaceIndex: number): Buffer {
  const address = Buffer.alloc(ADDRESS_BYTES);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16LE(ETH_P_ALL, 2);
  address.writeInt32LE(interfaceIndex, 4);
  address.writeUInt8(MAC_BYTES, 11);
  return address;
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

const failed = (call: string): GodwitError => new GodwitError("internal", `${call}: errno ${koffi.errno()}`);
