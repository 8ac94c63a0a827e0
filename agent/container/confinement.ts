/** What a container's processes may do: capabilities and system calls. */

/** The set that container engines customarily grant, without CAP_SYS_RESOURCE and raw sockets. */
export const DEFAULT_CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_MKNOD",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETFCAP",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT",
  "CAP_KILL",
  "CAP_AUDIT_WRITE",
];

/** Denied with EPERM: administration of the host, and ways around the namespaces. */
const FORBIDDEN = [
  "acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module", "finit_module",
  "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "init_module", "ioperm", "iopl", "kcmp",
  "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mount", "mount_setattr", "move_mount",
  "move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open",
  "pivot_root", "process_vm_readv", "process_vm_writev", "query_module", "quotactl",
  "quotactl_fd", "reboot", "request_key", "setns", "settimeofday", "stime", "swapoff", "swapon", "sysfs",
  "_sysctl", "umount", "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vm86", "vm86old",
]; // prettier-ignore
/**
 * Answered with ENOSYS, "this kernel has no such call", so that programs take their older path: clone3's flags cannot be
 * looked at by a filter, and CRIU cannot checkpoint io_uring rings.
 */
const ABSENT = ["clone3"];
const IO_URING = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
const EPERM = 1;
const ENOSYS = 38;
/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h). */
const CLONE_NAMESPACE_FLAGS = [
  0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
];

/** `ioUring`: programs may use it, and then cannot be moved. */
export const seccompProfile = ({ ioUring }: { readonly ioUring: boolean }): object => ({
  defaultAction: "SCMP_ACT_ALLOW",
  architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  syscalls: [
    { names: FORBIDDEN, action: "SCMP_ACT_ERRNO", errnoRet: EPERM },
    { names: ioUring ? ABSENT : [...ABSENT, ...IO_URING], action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS },
    ...CLONE_NAMESPACE_FLAGS.map((flag) => ({
      names: ["clone"],
      action: "SCMP_ACT_ERRNO",
      errnoRet: EPERM,
      args: [{ index: 0, value: flag, valueTwo: flag, op: "SCMP_CMP_MASKED_EQ" }],
    })),
  ],
});
