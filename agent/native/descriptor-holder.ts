import { constants } from "node:os";

import koffi from "koffi";

/**
 * A process that shares this one's table of descriptors. It runs not a line of JavaScript, of which V8 keeps parts out of
 * processes that are forked: it begins, on a stack of its own, inside the C library's pause(), and stays there.
 */
const libc = koffi.load(null);
const dlsym = libc.func("void *dlsym(void *handle, const char *name)");
const clone = libc.func("int clone(void *function, uintptr_t stack, int flags, void *argument)");
const mmap = libc.func(
  "uintptr_t mmap(void *address, size_t length, int protection, int flags, int fd, long offset)",
);
const munmap = libc.func("int munmap(uintptr_t address, size_t length)");
const sigfillset = libc.func("int sigfillset(void *set)");
const pthreadSigmask = libc.func("int pthread_sigmask(int how, const void *set, void *old)");

const CLONE_FILES = 0x400;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const SIG_SETMASK = 2;
/** sizeof(sigset_t) in the C library. */
const SIGSET_BYTES = 128;
const STACK_BYTES = 64 * 1024;

/**
 * Starts it, and answers its pid: whatever this process has opened, or opens later, stays open when it dies, and goes
 * only when the other is ended, too. To be called early: the other keeps the memory of this moment.
 */
export function holdDescriptors(): number {
  const stack = Number(mmap(null, STACK_BYTES, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
  const [all, before] = [Buffer.alloc(SIGSET_BYTES), Buffer.alloc(SIGSET_BYTES)];
  sigfillset(all);
  // Nothing but SIGKILL is for it: this process's handlers would be called in it.
  pthreadSigmask(SIG_SETMASK, all, before);
  const pid = Number(
    clone(dlsym(null, "pause"), stack + STACK_BYTES, CLONE_FILES | constants.signals.SIGCHLD, null),
  );
  const errno = koffi.errno();
  pthreadSigmask(SIG_SETMASK, before, null);
  munmap(stack, STACK_BYTES);
  if (pid < 0) throw new Error(`clone: errno ${errno}`);
  return pid;
}
