import koffi from "koffi";

/**
 * ptrace(2) and waitpid(2) for threads that are no children of this process. Tracing belongs to one thread: all of
 * these are synchronous and must be called from the same one. x86_64.
 */
const libc = koffi.load(null);
const ptraceCall = libc.func("long ptrace(int request, int pid, uintptr_t address, uintptr_t data)");
const ptraceBuffer = libc.func("long ptrace(int request, int pid, uintptr_t address, void *data)");
const waitpid = libc.func("int waitpid(int pid, _Out_ int *status, int options)");

const PTRACE_CONT = 7;
const PTRACE_GETREGS = 12;
const PTRACE_SETREGS = 13;
const PTRACE_DETACH = 17;
const PTRACE_SYSCALL = 24;
const PTRACE_SEIZE = 0x4206;
const PTRACE_INTERRUPT = 0x4207;
const PTRACE_GETSIGMASK = 0x420a;
const PTRACE_SETSIGMASK = 0x420b;
const PTRACE_O_TRACESYSGOOD = 1;
const PTRACE_O_SUSPEND_SECCOMP = 1 << 21;
const EVENT_STOP = 128;
const SIGTRAP = 5;
const WNOHANG = 1;
const WALL = 0x40000000;
const SIGNAL_SET_BYTES = 8;

/** struct user_regs_struct: 27 words. */
const REGISTERS_BYTES = 27 * 8;
/** Words of it by name. */
const Word = { rax: 10, rdi: 14, origRax: 15, rip: 16, cs: 17 } as const;
const CODE_SEGMENT_64 = 0x33n;

export type TraceStop =
  | { readonly kind: "interrupted" }
  | { readonly kind: "syscall" }
  | { readonly kind: "signal"; readonly signal: number }
  | { readonly kind: "stopped" }
  | { readonly kind: "gone" };

function failed(call: string): Error {
  return new Error(`${call}: errno ${koffi.errno()}`);
}

function must(result: number | bigint, call: string): void {
  if (Number(result) === -1) throw failed(call);
}

/** One thread that this process traces. Seccomp filters do not apply to it meanwhile. */
export class TracedThread {
  readonly tid: number;
  #pendingSignal = 0;

  private constructor(tid: number) {
    this.tid = tid;
  }

  /** @throws when it is gone, or traced by somebody else */
  static seize(tid: number): TracedThread {
    must(
      ptraceCall(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP),
      `ptrace(SEIZE, ${tid})`,
    );
    return new TracedThread(tid);
  }

  interrupt(): void {
    must(ptraceCall(PTRACE_INTERRUPT, this.tid, 0, 0), "ptrace(INTERRUPT)");
  }

  /** Waits for the next stop; undefined when there is none before `deadlineMs` (of performance.now). */
  waitForStop(deadlineMs: number): TraceStop | undefined {
    const status = [0];
    for (;;) {
      const pid = Number(waitpid(this.tid, status, WALL | WNOHANG));
      if (pid === this.tid) break;
      if (pid < 0) return { kind: "gone" };
      if (performance.now() > deadlineMs) return undefined;
      Atomics.wait(IDLE, 0, 0, 0.05);
    }
    const value = status[0] ?? 0;
    if ((value & 0xff) !== 0x7f) return { kind: "gone" };
    const signal = (value >> 8) & 0xff;
    if (value >> 16 === EVENT_STOP) return { kind: signal === SIGTRAP ? "interrupted" : "stopped" };
    if (signal === (SIGTRAP | 0x80)) return { kind: "syscall" };
    this.#pendingSignal = signal;
    return { kind: "signal", signal };
  }

  registers(): Registers {
    const words = new BigUint64Array(REGISTERS_BYTES / 8);
    must(ptraceBuffer(PTRACE_GETREGS, this.tid, 0, new Uint8Array(words.buffer)), "ptrace(GETREGS)");
    return new Registers(words);
  }

  setRegisters(registers: Registers): void {
    must(
      ptraceBuffer(PTRACE_SETREGS, this.tid, 0, new Uint8Array(registers.words.buffer)),
      "ptrace(SETREGS)",
    );
  }

  signalMask(): Buffer {
    const mask = Buffer.alloc(SIGNAL_SET_BYTES);
    must(ptraceBuffer(PTRACE_GETSIGMASK, this.tid, SIGNAL_SET_BYTES, mask), "ptrace(GETSIGMASK)");
    return mask;
  }

  setSignalMask(mask: Uint8Array): void {
    must(ptraceBuffer(PTRACE_SETSIGMASK, this.tid, SIGNAL_SET_BYTES, mask), "ptrace(SETSIGMASK)");
  }

  /** Goes on up to the next entry into or return from a system call. */
  continueToSyscall(): void {
    must(ptraceCall(PTRACE_SYSCALL, this.tid, 0, 0), "ptrace(SYSCALL)");
  }

  continue(): void {
    must(ptraceCall(PTRACE_CONT, this.tid, 0, 0), "ptrace(CONT)");
  }

  /** Lets go of a stopped thread; a signal that it was stopped for reaches it. A thread that is gone is no error. */
  detach(): void {
    ptraceCall(PTRACE_DETACH, this.tid, 0, this.#pendingSignal);
  }
}

const IDLE = new Int32Array(new SharedArrayBuffer(4));

/** A thread's general registers. */
export class Registers {
  readonly words: BigUint64Array<ArrayBuffer>;

  constructor(words: BigUint64Array<ArrayBuffer>) {
    this.words = words;
  }

  get is64Bit(): boolean {
    return this.words[Word.cs] === CODE_SEGMENT_64;
  }

  get result(): bigint {
    return BigInt.asIntN(64, this.words[Word.rax] ?? 0n);
  }

  /** The same thread about to execute the `syscall` instruction at `address`, and not within a call already. */
  forCall(address: bigint, number: number, first: number): Registers {
    const words = this.words.slice();
    words[Word.rip] = address;
    words[Word.rax] = BigInt(number);
    words[Word.rdi] = BigInt(first);
    // Otherwise the kernel would think that a call of the thread's own is to be started again.
    words[Word.origRax] = 0xffff_ffff_ffff_ffffn;
    return new Registers(words);
  }
}
