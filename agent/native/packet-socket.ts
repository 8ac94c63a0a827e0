import { closeSync } from "node:fs";

import koffi from "koffi";

import { GodwitError } from "../../proto/contract/error.ts";

/** A packet socket (packet(7)): Ethernet frames as they pass an interface, and frames put on one. */
const libc = koffi.load("libc.so.6");
const socket = libc.func("int socket(int domain, int type, int protocol)");
const bind = libc.func("int bind(int fd, const void *address, uint32_t length)");
const setsockopt = libc.func(
  "int setsockopt(int fd, int level, int name, const void *value, uint32_t length)",
);
const recv = libc.func("intptr_t recv(int fd, _Out_ uint8_t *buffer, size_t length, int flags)");
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
const ADDRESS_BYTES = 20;
const MAC_BYTES = 6;
/** struct virtio_net_hdr: what of checksums and segments was left to the hardware, which the socket hands on unchanged. */
const VNET_HEADER_BYTES = 10;
/** The largest segment that a kernel hands on in one piece, and its head. */
const FRAME_BYTES = VNET_HEADER_BYTES + 128 + 65_536;

/** One instruction of a classic BPF program (linux/filter.h). */
type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, value: number];
const LOAD_WORD = 0x20;
const LOAD_HALF = 0x28;
const JUMP_EQUAL = 0x15;
const RETURN = 0x06;
const WHOLE = 0xffff_ffff;

/** Hears frames of one interface from when it is told of whom on, and keeps them until they are taken. */
export class PacketSocket implements Disposable {
  readonly #descriptor: number;
  readonly #interface: Buffer;
  readonly #buffer = Buffer.alloc(FRAME_BYTES);

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

  /** Frames to this hardware address, whichever way they pass the interface. @param mac 6 bytes */
  hear(mac: Buffer): void {
    this.#filter([
      [LOAD_WORD, 0, 0, 0],
      [JUMP_EQUAL, 0, 3, mac.readUInt32BE(0)],
      [LOAD_HALF, 0, 0, 4],
      [JUMP_EQUAL, 0, 1, mac.readUInt16BE(4)],
      [RETURN, 0, 0, WHOLE],
      [RETURN, 0, 0, 0],
    ]);
  }

  /** What was heard before stays to be taken. */
  hearNothing(): void {
    this.#filter([[RETURN, 0, 0, 0]]);
  }

  /** Puts a frame on the interface that the socket hears. */
  send(frame: Buffer): void {
    const message = Buffer.concat([Buffer.alloc(VNET_HEADER_BYTES), frame]);
    if (!this.#put(message, this.#interface)) throw failed("sendto(AF_PACKET)");
  }

  /** Puts all that was heard on another interface; answers how many frames it took. */
  passTo(interfaceIndex: number): number {
    const to = linkAddress(interfaceIndex);
    for (let passed = 0; ;) {
      const bytes = Number(recv(this.#descriptor, this.#buffer, FRAME_BYTES, MSG_DONTWAIT | MSG_TRUNC));
      if (bytes < 0) {
        const errno = koffi.errno();
        if (errno === EAGAIN) return passed;
        // A frame of a kind for which that header has no words: lost, as one on a wire may be.
        if (errno === EINVAL) continue;
        throw failed("recv(AF_PACKET)");
      }
      if (bytes <= FRAME_BYTES && this.#put(this.#buffer.subarray(0, bytes), to)) passed += 1;
    }
  }

  #put(message: Buffer, to: Buffer): boolean {
    return Number(sendto(this.#descriptor, message, message.byteLength, 0, to, ADDRESS_BYTES)) >= 0;
  }

  #filter(program: readonly Instruction[]): void {
    const code = Buffer.alloc(program.length * 8);
    for (const [at, [operation, ifTrue, ifFalse, value]] of program.entries()) {
      code.writeUInt16LE(operation, at * 8);
      code.writeUInt8(ifTrue, at * 8 + 2);
      code.writeUInt8(ifFalse, at * 8 + 3);
      code.writeUInt32LE(value, at * 8 + 4);
    }
    const fprog = Buffer.alloc(16);
    fprog.writeUInt16LE(program.length, 0);
    fprog.writeBigUInt64LE(BigInt(koffi.address(code)), 8);
    this.#set(SOL_SOCKET, SO_ATTACH_FILTER, fprog);
  }

  #set(level: number, name: number, value: Buffer): void {
    if (setsockopt(this.#descriptor, level, name, value, value.byteLength) !== 0)
      throw failed("setsockopt(AF_PACKET)");
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
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
