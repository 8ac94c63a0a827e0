import ctypes, fcntl, random, resource, select, socket, struct, threading
from harness import *


@kind
def threads():
    lock, stop, total, mine = threading.Lock(), threading.Event(), [0], [0] * 8
    tids, broken = {}, []

    def run(index):
        tids[index] = threading.get_native_id()
        while not stop.is_set():
            with lock:
                before = total[0]
                total[0] = before + 1
            mine[index] += 1
            if tids[index] != ctypes.CDLL(None).syscall(186):
                broken.append(index)
            time.sleep(0.001)

    all_threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in all_threads:
        thread.start()
    while (yield):
        pass
    stop.set()
    for thread in all_threads:
        thread.join()
    assert sum(mine) == total[0] and not broken and min(mine) > 10, (mine, total, broken)


@kind
def tree():
    """39 descendants of three generations; each counts in a page that all share."""
    import mmap

    page = mmap.mmap(-1, 4096 * 4)

    def live(index):
        parent, me = os.getppid(), os.getpid()
        while not page[8000]:
            (n,) = struct.unpack_from("q", page, index * 16)
            struct.pack_into("qq", page, index * 16, n + 1, me)
            assert os.getppid() == parent and os.getpid() == me
            time.sleep(0.01)
        while True:
            try:
                os.wait()
            except ChildProcessError:
                os._exit(0)

    index = 0
    for _ in range(3):
        base, index = index, index + 13
        if os.fork() == 0:
            for j in range(3):
                if os.fork() == 0:
                    for k in range(3):
                        if os.fork() == 0:
                            live(base + 4 + j * 3 + k)
                    live(base + 1 + j)
            live(base)
    while struct.unpack_from("q", page, 38 * 16)[0] < 2:
        time.sleep(0.01)
    time.sleep(0.3)
    pids = [struct.unpack_from("qq", page, i * 16)[1] for i in range(39)]
    assert len(set(pids)) == 39 and 0 not in pids, pids
    while (yield):
        pass
    counts = [struct.unpack_from("qq", page, i * 16) for i in range(39)]
    time.sleep(0.5)
    for i in range(39):
        now = struct.unpack_from("qq", page, i * 16)
        assert now[0] > counts[i][0] and now[1] == pids[i], (i, counts[i], now)
    page[8000] = 1
    for _ in range(3):
        assert os.wait()[1] == 0


@kind
def sessions():
    read, write_end = os.pipe()
    children = {}
    for how in ("plain", "session", "group"):
        pid = os.fork()
        if pid == 0:
            if how == "session":
                os.setsid()
            if how == "group":
                os.setpgid(0, 0)
            me = (os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0))
            os.write(write_end, b".")
            while (os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0)) == me:
                time.sleep(0.01)
            os._exit(9)
        children[how] = pid
        os.read(read, 1)
    # An orphan that its grandparent, or init, has taken over, in a group whose leader is gone.
    middle = os.fork()
    if middle == 0:
        os.setpgid(0, 0)
        if os.fork() == 0:
            while os.getppid() != 1:
                time.sleep(0.01)
            group = os.getpgid(0)
            os.write(write_end, struct.pack("i", os.getpid()))
            while os.getppid() == 1 and os.getpgid(0) == group:
                time.sleep(0.01)
            os._exit(9)
        os._exit(0)
    os.waitpid(middle, 0)
    (orphan,) = struct.unpack("i", os.read(read, 4))
    assert os.getpgid(orphan) == middle
    while (yield):
        assert os.getsid(children["session"]) == children["session"]
        assert os.getpgid(children["group"]) == children["group"]
        assert os.getpgid(children["plain"]) == os.getpgid(0)
        assert os.getpgid(orphan) == middle
    for pid in children.values():
        os.kill(pid, 15)
        assert os.waitpid(pid, 0)[1] == 15
    os.kill(orphan, 9)


def state(pid):
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]


@kind
def zombie():
    """A child that has ended and was not waited for."""
    dead = os.fork()
    if dead == 0:
        os._exit(7)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)  # dead, and left as it is
    while (yield):
        assert state(dead) == "Z", state(dead)
    assert os.waitstatus_to_exitcode(os.waitpid(dead, 0)[1]) == 7


@kind
def attributes():
    """What a process has besides memory and files."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, 5 << 20))
    os.umask(0o027)
    os.makedirs("/data/cwd", exist_ok=True)
    os.chdir("/data/cwd")
    libc = ctypes.CDLL(None)
    libc.prctl(15, b"renamed", 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN])
    os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(3):  # real-time signals queue
        libc.sigqueue(os.getpid(), signal.SIGRTMIN, 77)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.setgroups([5, 6])
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    def look():
        status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
        umask = os.umask(0o027)
        return (
            os.nice(0), resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE),
            resource.getrlimit(resource.RLIMIT_STACK), umask, os.getcwd(), open("/proc/self/comm").read(),
            sorted(signal.sigpending()), os.getgroups(), os.sched_getscheduler(0), signal.getsignal(signal.SIGUSR2),
            [status[k] for k in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "SigCgt", "Threads")],
            open("/proc/self/oom_score_adj").read(), os.environ["HOSTNAME"],
            os.uname().nodename,
        )  # fmt: skip

    before, line = look(), open("/proc/self/cmdline").read()
    while (yield):
        assert look() == before, (before, look())
    # The kernel reads it from the process's memory, and finds nothing while that is still being filled.
    until = time.monotonic() + 10
    while open("/proc/self/cmdline").read() != line:
        assert time.monotonic() < until
    queued = 0
    while signal.sigtimedwait([signal.SIGRTMIN], 0):
        queued += 1
    assert queued == 3, queued
    assert signal.sigtimedwait([signal.SIGUSR1], 0).si_pid == os.getpid()


@kind
def unprivileged():
    """A process that has become another user, and has given up its capabilities by that."""
    os.setgroups([])
    os.chown("/result", 65534, -1), os.chown("/ready", 65534, -1), os.chown("/count", 65534, -1)
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    while (yield):
        assert os.getresuid() == (65534,) * 3 and os.getresgid() == (65534,) * 3
        try:
            open("/etc/shadow-of-mine", "w")
            raise AssertionError("wrote to /etc")
        except PermissionError:
            pass


@kind
def forks():
    """Children are made and end all the time: some are born, some die, while the container is copied and frozen."""
    living, made = {}, 0

    def make():
        seed = random.randrange(256)
        pid = os.fork()
        if pid == 0:
            block = bytes([seed]) * 300_000
            time.sleep(random.random() * 0.5)
            os._exit(seed if block.count(seed) == 300_000 else 255 - seed)
        assert pid not in living
        living[pid] = seed

    while (yield):
        while len(living) < 8:
            make()
            made += 1
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            seed = living.pop(pid)
            assert os.waitstatus_to_exitcode(status) == seed, (pid, seed, status)
    for pid, seed in living.items():
        status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == seed, (pid, seed, status)
    assert made > 20, made


@kind
def programs():
    """Programs that are started and end: exec replaces the memory that is being copied."""
    import subprocess

    count = 0
    while (yield):
        count += 1
        answer = subprocess.run(["sh", "-c", f"echo $(({count}*2))"], stdout=subprocess.PIPE)
        assert answer.returncode == 0 and int(answer.stdout) == count * 2


@kind
def vforks():
    """A process that half of the time waits, in the kernel, for the child that it has made to begin a program or end."""
    clone = ctypes.CDLL(None).syscall
    ended = 0
    while (yield):
        pid = clone(56, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0)  # CLONE_VFORK
        if pid == 0:
            time.sleep(0.005)
            os._exit(200)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 200
        ended += 1
        time.sleep(0.005)
    assert ended > 20, ended


@kind
def exit_codes():
    """Exit codes of 128 and more, asked for a while after the end."""
    while (yield):
        pid = os.fork()
        if pid == 0:
            os._exit(137)
        time.sleep(0.01)
        status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 137, status


@kind
def own_filter():
    """A seccomp filter that a process has laid upon itself, beside the container's."""
    libc = ctypes.CDLL(None, use_errno=True)
    getpgid, errno = 121, 77
    # If the call is getpgid answer 77, else let it through (linux/filter.h, linux/seccomp.h).
    code = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, getpgid)
    code += struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno) + struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    area = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(area))
    assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0  # PR_SET_SECCOMP, filter
    while (yield):
        assert libc.syscall(getpgid, 0) == -1 and ctypes.get_errno() == errno
        assert os.getpid() > 0


@kind
def capabilities():
    """Fewer in each set than the container has, and one that is ambient."""
    libc = ctypes.CDLL(None, use_errno=True)
    chown, override, kill, net_bind, mknod = 0, 1, 5, 10, 27  # override: the result's folder may be another user's
    assert libc.prctl(24, mknod, 0, 0, 0) == 0  # PR_CAPBSET_DROP
    bits = lambda *caps: sum(1 << cap for cap in caps)
    header = struct.pack("Ii", 0x20080522, 0)
    sets = struct.pack("IIIIII", bits(override, kill, net_bind), bits(chown, override, kill, net_bind), bits(net_bind), 0, 0, 0)
    assert libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(sets)) == 0
    assert libc.prctl(47, 2, net_bind, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE
    assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS

    def look():
        lines = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
        return {key: int(lines[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}, libc.prctl(7, 0, 0, 0, 0)

    before = look()
    assert before[0]["CapEff"] == bits(override, kill, net_bind) and before[0]["CapAmb"] == bits(net_bind), before
    while (yield):
        assert look() == before, (before, look())


@kind
def parenthood():
    """A signal at the parent's death, a subreaper, a pidfd."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
    read, write_end = os.pipe()
    middle = os.fork()
    if middle == 0:
        child = os.fork()
        if child == 0:
            libc.prctl(1, signal.SIGUSR1, 0, 0, 0)  # PR_SET_PDEATHSIG
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(42))
            os.write(write_end, struct.pack("i", os.getpid()))
        while True:
            time.sleep(0.02)
    (child,) = struct.unpack("i", os.read(read, 4))
    handle = os.pidfd_open(middle)
    while (yield):
        assert not select.select([handle], [], [], 0)[0]
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    assert select.select([handle], [], [], 5)[0]
    assert os.waitpid(middle, 0)[1] == 9
    # It has become a child of this process, the nearest subreaper, and has heard of its parent's death.
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
