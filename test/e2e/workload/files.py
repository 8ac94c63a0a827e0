import ctypes, fcntl, hashlib, random, socket, stat, struct
from harness import *

MIB = 1 << 20


@kind
def deleted_but_open():
    descriptor = os.open("/data/deleted", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink("/data/deleted")
    size = 0
    while (yield):
        assert os.write(descriptor, b"%08d" % (size // 8)) == 8
        size += 8
        assert os.fstat(descriptor).st_nlink == 0
    assert os.pread(descriptor, size + 1, 0) == b"".join(b"%08d" % i for i in range(size // 8))
    assert not os.path.exists("/data/deleted")


@kind
def open_name_removed():
    """Two names, open by one of them, which is then removed."""
    descriptor = os.open("/data/first-name", os.O_RDWR | os.O_CREAT)
    os.link("/data/first-name", "/data/second-name")
    os.unlink("/data/first-name")
    size = 0
    while (yield):
        size += os.write(descriptor, b"abcdefgh")
        assert os.stat("/data/second-name").st_size == size
        assert os.fstat(descriptor).st_ino == os.stat("/data/second-name").st_ino
    assert not os.path.exists("/data/first-name")
    assert os.fstat(descriptor).st_nlink == 1, "a name that was made for the move is left"


@kind
def replaced_while_open():
    """A file of the image that is held open while another takes its name; and one opened before it was changed."""
    old = os.open("/etc/group", os.O_RDONLY)
    content = os.pread(old, 10000, 0)
    write("/etc/group", "replaced:x:0:\n")
    image = os.open("/etc/passwd", os.O_RDONLY)
    first = os.read(image, 5)
    count = 0
    while (yield):
        count += 1
        write("/data/atomic", f"{count}\n" * 100)
        assert open("/data/atomic").read() == f"{count}\n" * 100
        assert os.pread(old, 10000, 0) == content
        assert open("/etc/group").read() == "replaced:x:0:\n"
        assert os.lseek(image, 0, os.SEEK_CUR) == 5
    assert first + os.read(image, 10000) == open("/etc/passwd", "rb").read()


@kind
def positions():
    """Append, and positions that are shared by fork and dup or are not."""
    append = os.open("/data/append", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    other = os.open("/data/append", os.O_WRONLY | os.O_APPEND)
    shared = os.open("/data/shared-position", os.O_RDWR | os.O_CREAT)
    duplicate = os.dup(shared)
    pid_gate, gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        os.read(pid_gate, 1)
        os.write(shared, b"end")
        os._exit(0)
    os.close(pid_gate)
    n = 0
    while (yield):
        os.write(append if n % 2 else other, b"%08d" % n)
        os.write(shared if n % 2 else duplicate, b"%08d" % n)
        n += 1
    want = b"".join(b"%08d" % i for i in range(n))
    assert open("/data/append", "rb").read() == want
    assert fcntl.fcntl(append, fcntl.F_GETFL) & os.O_APPEND
    os.close(gate)
    assert os.waitpid(pid, 0)[1] == 0
    assert open("/data/shared-position", "rb").read() == want + b"end"


@kind
def locks():
    """flock, fcntl and open-file-description locks that one process holds and others try in vain to take."""
    names = ["flock", "posix", "ofd"]
    files = [os.open(f"/data/lock-{name}", os.O_RDWR | os.O_CREAT) for name in names]
    for f in files:
        os.write(f, b"0123456789")
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 2, 3, 0)
    fcntl.flock(files[0], fcntl.LOCK_EX)
    fcntl.lockf(files[1], fcntl.LOCK_EX, 3, 2)
    fcntl.fcntl(files[2], 37, lock)  # F_OFD_SETLK
    pid = os.fork()
    if pid == 0:
        for f in files:
            os.close(f)
        tries = 0
        while not os.path.exists("/data/locks-over"):
            for name, take in (
                ("flock", lambda f: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                ("posix", lambda f: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 4)),
                ("ofd", lambda f: fcntl.fcntl(f, 37, lock)),
            ):
                f = os.open(f"/data/lock-{name}", os.O_RDWR)
                try:
                    take(f)
                    os._exit(10 + names.index(name))
                except BlockingIOError:
                    tries += 1
                os.close(f)
            time.sleep(0.002)
        os._exit(0 if tries > 30 else 9)
    while (yield):
        pass
    write("/data/locks-over", "")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"the other process could take lock {code}"


@kind
def sparse():
    """1 GB with 1 MB of data in it, some of it written during the move."""
    with open("/data/sparse", "wb") as file:
        file.truncate(1 << 30)
    descriptor = os.open("/data/sparse", os.O_RDWR)
    chance, want = random.Random(9), {}
    for i in range(128):
        at = chance.randrange(1 << 18) * 4096
        want[at] = b"%08d" % i * 512
        os.pwrite(descriptor, want[at], at)
    while (yield):
        at = chance.randrange(1 << 18) * 4096
        if len(want) < 256:
            want[at] = b"%08d" % at * 1
            os.pwrite(descriptor, want[at], at)
    for at, data in want.items():
        assert os.pread(descriptor, len(data), at) == data
    info = os.fstat(descriptor)
    assert info.st_size == 1 << 30 and info.st_blocks * 512 < 8 * MIB, info
    data = sum(1 for _ in extents(descriptor))
    assert data < 600, data


def extents(descriptor):
    at = 0
    while True:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(descriptor, at, os.SEEK_HOLE)
        yield at, end
        at = end


@kind
def attributes_of_files():
    """Owners, modes, times, extended attributes, links of both kinds, odd names, devices and folders."""
    os.makedirs(b"/data/attributes/empty folder")
    root = "/data/attributes"

    def make(name, mode=0o644, uid=0, gid=0):
        open(f"{root}/{name}", "w").write(name)
        os.chown(f"{root}/{name}", uid, gid)
        os.chmod(f"{root}/{name}", mode)

    make("setuid", 0o4755), make("nobody", 0o600, 65534, 65534), make("high-ids", 0o640, 4_000_000, 3_000_000)
    make("n" * 255), make("ünï code\n\t\\x"), make("hard-1")
    open(os.fsencode(root) + b"/\xff\xfe-no-utf8", "w").write("bytes")
    os.link(f"{root}/hard-1", f"{root}/hard-2")
    os.symlink("../../nowhere " + "x" * 2000, f"{root}/dangling")
    os.chmod(f"{root}/empty folder", 0o2711)
    os.utime(f"{root}/nobody", ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    os.utime(f"{root}/empty folder", ns=(-5_000_000_000, 4_000_000_000_000_000_001))
    for name, value in ((b"user.plain", b"value"), (b"user.binary", bytes(range(256))), (b"user.empty", b"")):
        os.setxattr(f"{root}/hard-1", name, value)
        os.setxattr(f"{root}/empty folder", name, value)
    os.mkfifo(f"{root}/fifo", 0o604)
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(f"{root}/socket")
    # Of the image: removed, a folder replaced by a file, changed in owner only, and a folder moved.
    os.unlink("/bin/yes")
    os.makedirs("/data/old/below"), make("../old/below/file"), os.rename("/data/old", "/data/new")
    os.chown("/bin/wget", 7, 7, follow_symlinks=False)
    os.rmdir("/var/lib"), make("../../var/lib")

    def look():
        seen = {}
        for folder, folders, names in os.walk(b"/data/attributes"):
            for name in folders + names:
                path = folder + b"/" + name
                info = os.lstat(path)
                follow = not stat.S_ISLNK(info.st_mode)
                seen[path] = (
                    info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_nlink,
                    None if stat.S_ISSOCK(info.st_mode) else info.st_mtime_ns,  # is bound anew
                    {k: os.getxattr(path, k) for k in os.listxattr(path)} if follow else os.readlink(path),
                )  # fmt: skip
        assert os.stat(f"{root}/hard-1").st_ino == os.stat(f"{root}/hard-2").st_ino
        return seen, os.path.lexists("/bin/yes"), os.lstat("/bin/wget").st_uid, sorted(os.listdir("/data/new/below")), os.path.isfile("/var/lib")

    before = look()
    while (yield):
        now = look()
        assert now == before, [(k, before[0].get(k), now[0].get(k)) for k in now[0] if now[0].get(k) != before[0].get(k)] or (now[1:], before[1:])


@kind
def small_files():
    """3,000 of them, of which some are changed, made, renamed and removed all the time."""
    want, chance = {}, random.Random(4)
    os.makedirs("/data/small")
    for n in range(3000):
        os.makedirs(f"/data/small/{n % 30}", exist_ok=True)
        want[f"{n % 30}/{n}"] = b"%d" % n * (n % 50)
        with open(f"/data/small/{n % 30}/{n}", "wb") as file:
            file.write(want[f"{n % 30}/{n}"])
    names, made = list(want), 3000
    while (yield):
        for _ in range(3):
            at = chance.randrange(len(names))
            name = names[at]
            what = chance.randrange(4)
            path = f"/data/small/{name}"
            if what == 0:
                want[name] = want[name] + b"+"
                with open(path, "ab") as file:
                    file.write(b"+")
            elif what == 1:  # same size, in place
                want[name] = b"=" * len(want[name])
                descriptor = os.open(path, os.O_WRONLY)
                os.write(descriptor, want[name])
                os.close(descriptor)
            elif what == 2:
                os.unlink(path)
                del want[name]
                made += 1
                names[at] = f"{made % 30}/{made}"
                want[names[at]] = b"new"
                open(f"/data/small/{names[at]}", "wb").write(b"new")
            else:
                made += 1
                names[at] = f"{made % 30}/{made}"
                want[names[at]] = want.pop(name)
                os.rename(path, f"/data/small/{names[at]}")
    found = {}
    for folder in os.listdir("/data/small"):
        for name in os.listdir(f"/data/small/{folder}"):
            found[f"{folder}/{name}"] = open(f"/data/small/{folder}/{name}", "rb").read()
    assert found == want, (set(found) ^ set(want), [n for n in want if found.get(n) != want[n]][:5])


@kind
def folders():
    """A folder that is open for reading, a working folder, and one whose name has been removed."""
    os.makedirs("/data/listed/a")
    os.makedirs("/data/gone")
    listed = os.open("/data/listed", os.O_RDONLY | os.O_DIRECTORY)
    gone = os.open("/data/gone", os.O_RDONLY | os.O_DIRECTORY)
    path_only = os.open("/data/listed/a", os.O_PATH)
    os.rmdir("/data/gone")
    os.chdir("/data/listed/a")
    n = 0
    while (yield):
        n += 1
        descriptor = os.open(f"{n}", os.O_CREAT | os.O_WRONLY, dir_fd=listed)
        os.close(descriptor)
        assert os.listdir(listed).count(f"{n}") == 1 and os.path.exists(f"../{n}")
        os.unlink(f"{n}", dir_fd=listed)
        assert os.fstat(gone).st_nlink == 0 and os.listdir(gone) == []
        assert os.stat(".").st_ino == os.fstat(path_only).st_ino


@kind
def log_rotation():
    """A log that is appended to, renamed away and begun anew, as daemons do."""
    n, file, generation = 0, open("/data/log.0", "a"), 0
    while (yield):
        n += 1
        file.write(f"{n}\n")
        file.flush()
        if n % 20 == 0:
            os.rename("/data/log.0", f"/data/log.{generation + 1}")
            old, file = file, open("/data/log.0", "a")
            generation += 1
            old.write(f"turned\n")
            old.close()
    lines = []
    for i in [*range(1, generation + 1), 0]:
        lines += open(f"/data/log.{i}").read().split()
    assert [l for l in lines if l != "turned"] == [str(i + 1) for i in range(n)]
    assert lines.count("turned") == generation


@kind
def tmpfs_files():
    """Files on the container's tmpfs: /dev/shm."""
    os.makedirs("/dev/shm/folder")
    want = {}
    while (yield):
        n = random.randrange(50)
        want[n] = random.randbytes(random.randrange(20_000))
        open(f"/dev/shm/folder/{n}", "wb").write(want[n])
    for n, data in want.items():
        assert open(f"/dev/shm/folder/{n}", "rb").read() == data


@kind
def in_dev():
    """What programs leave in /dev and /dev/shm: a deleted and a mapped file, a FIFO, a socket's name, a link."""
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind("/dev/log")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    os.mkfifo("/dev/initctl", 0o600)
    fifo = os.open("/dev/initctl", os.O_RDWR | os.O_NONBLOCK)
    os.symlink("shm", "/dev/link")
    gone = os.open("/dev/shm/gone", os.O_RDWR | os.O_CREAT)
    os.unlink("/dev/shm/gone")
    mapped = os.open("/dev/shm/mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(mapped, MIB)
    import mmap

    memory = mmap.mmap(mapped, MIB)
    count = 0
    while (yield):
        count += 1
        memory[count * 8 % MIB] = count & 255
        write(f"/dev/shm/turn-{count % 3}", str(count))
        if count % 3 == 2:
            os.unlink("/dev/shm/turn-0") if os.path.exists("/dev/shm/turn-0") else None
        assert os.pwrite(gone, b"%08d" % count, 0) == 8 and os.pread(gone, 8, 0) == b"%08d" % count
        sender.sendto(b"line %d" % count, "/dev/log")
        assert log.recv(100) == b"line %d" % count
        assert os.write(fifo, b"x%d" % count) and os.read(fifo, 100) == b"x%d" % count
        assert open("/dev/link/mapped", "rb").read(MIB)[count * 8 % MIB] == count & 255
    assert stat.S_ISFIFO(os.stat("/dev/initctl").st_mode) and os.readlink("/dev/link") == "shm"
    for name, number in (("null", (1, 3)), ("zero", (1, 5)), ("urandom", (1, 9)), ("tty", (5, 0))):
        device = os.stat(f"/dev/{name}")
        assert stat.S_ISCHR(device.st_mode) and (os.major(device.st_rdev), os.minor(device.st_rdev)) == number
    assert open("/dev/zero", "rb").read(3) == bytes(3) and os.path.exists("/dev/pts/ptmx")


@kind
def standard_input():
    """It is at its end, and stays so."""
    while (yield):
        assert os.read(0, 100) == b""
