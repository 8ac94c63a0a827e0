import ctypes, hashlib, mmap, random, struct, threading
from harness import *

MIB = 1 << 20


@kind
def heap():
    """200 MB, of which a thread changes about 20 MB a second; each page carries its number, version and checksum."""
    pages = 200 * 256
    area = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    versions = [0] * pages
    body = random.randbytes(4096 * 64)

    def put(page):
        versions[page] += 1
        offset = (page * 31 + versions[page] * 17) % (4096 * 63)
        area[page * 4096 : page * 4096 + 4096] = struct.pack("<QQ", page, versions[page]) + body[offset : offset + 4080]

    def check(page):
        offset = (page * 31 + versions[page] * 17) % (4096 * 63)
        want = struct.pack("<QQ", page, versions[page]) + body[offset : offset + 4080]
        assert area[page * 4096 : page * 4096 + 4096] == want, (page, versions[page], area[page * 4096 : page * 4096 + 32])

    digest = hashlib.sha256(body).digest()
    for page in range(pages):
        put(page)
    chance = random.Random(1)
    while (yield):
        for _ in range(28):  # at about 190 turns a second
            put(chance.randrange(pages))
        for _ in range(10):
            check(chance.randrange(pages))
    assert hashlib.sha256(body).digest() == digest
    for page in range(pages):
        check(page)


@kind
def mappings():
    """Mappings come, grow, move, shrink and go; some of their pages are only ever read, or never touched."""
    chance = random.Random(2)
    held = {}
    untouched = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    guarded = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    while (yield):
        key = chance.randrange(12)
        if key in held:
            area, seed, size = held.pop(key)
            assert area[:size] == random.Random(seed).randbytes(size), (key, size)
            if chance.random() < 0.5:
                grown = size + chance.randrange(1, 40) * 4096
                area.resize(grown)
                assert area[:size] == random.Random(seed).randbytes(size)
                assert not any(area[size:]), "fresh memory is not zero"
            area.close()
        else:
            size = chance.randrange(1, 60) * 4096
            seed = chance.randrange(1 << 30)
            area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            area[:] = random.Random(seed).randbytes(size)
            held[key] = (area, seed, size)
    assert not any(untouched[i] for i in range(0, 64 * MIB, 4096)) and not any(guarded[:4096])
    for area, seed, size in held.values():
        assert area[:size] == random.Random(seed).randbytes(size)


@kind
def zeroed():
    """Pages that are given back (MADV_DONTNEED) and zeroed stay so: an earlier round's content must not come back."""
    libc = ctypes.CDLL(None)
    pages = 4096
    area = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    marks = [0] * pages
    chance = random.Random(3)
    for page in range(pages):
        marks[page] = 1
        area[page * 4096] = 1
    count = 0
    while (yield):
        for _ in range(40):
            page = chance.randrange(pages)
            assert area[page * 4096] == marks[page], page
            what = chance.randrange(3)
            if what == 0:
                area.madvise(mmap.MADV_DONTNEED, page * 4096, 4096)
            elif what == 1:
                area[page * 4096 : page * 4096 + 4096] = bytes(4096)
            marks[page] = chance.randrange(1, 256) if what == 2 else 0
            if what == 2:
                area[page * 4096] = marks[page]
    for page in range(pages):
        assert area[page * 4096] == marks[page], (page, area[page * 4096], marks[page])


@kind
def copy_on_write():
    """A child shares its parent's pages until one of them writes."""
    area = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area[:] = b"p" * (16 * MIB)
    read, write_end = os.pipe()
    stop, stopper = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stopper)
        mine = random.Random(5)
        written = set()
        os.set_blocking(stop, False)
        while True:
            page = mine.randrange(4096)
            area[page * 4096 : page * 4096 + 4096] = b"c" * 4096
            written.add(page)
            time.sleep(0.005)
            try:
                if os.read(stop, 1) == b"":
                    break
            except BlockingIOError:
                pass
        ok = all(area[p * 4096 + 9 : p * 4096 + 10] == (b"c" if p in written else b"p") for p in range(4096))
        os._exit(0 if ok else 1)
    os.close(stop)
    while (yield):
        pass
    os.close(stopper)
    assert area[:] == b"p" * (16 * MIB)
    assert os.waitpid(pid, 0)[1] == 0


def counting(area, at=0):
    """Two processes count up in shared memory, each in a cell of its own and in turns in a third."""
    pid = os.fork()
    if pid == 0:
        while not area[at + 100]:
            (n,) = struct.unpack_from("q", area, at + 8)
            struct.pack_into("q", area, at + 8, n + 1)
            (turn,) = struct.unpack_from("q", area, at + 16)
            if turn % 2 == 1:
                struct.pack_into("q", area, at + 16, turn + 1)
            time.sleep(0.002)
        os._exit(0)
    mine = 0
    while (yield):
        mine += 1
        (n,) = struct.unpack_from("q", area, at)
        assert n == mine - 1, (n, mine)
        struct.pack_into("q", area, at, mine)
        (turn,) = struct.unpack_from("q", area, at + 16)
        if turn % 2 == 0:
            struct.pack_into("q", area, at + 16, turn + 1)
    (theirs,) = struct.unpack_from("q", area, at + 8)
    (turns,) = struct.unpack_from("q", area, at + 16)
    assert theirs > 20 and turns > 20, (theirs, turns)
    area[at + 100] = 1
    assert os.waitpid(pid, 0)[1] == 0


@kind
def shared_anonymous():
    area = mmap.mmap(-1, 8 * MIB)
    area[4096 : 4096 + 4 * MIB] = b"s" * (4 * MIB)
    yield from counting(area)
    assert area[4096 : 4096 + 4 * MIB] == b"s" * (4 * MIB)


@kind
def posix_shm():
    descriptor = os.open("/dev/shm/godwit", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 4 * MIB)
    area = mmap.mmap(descriptor, 4 * MIB)
    area[MIB : 2 * MIB] = b"m" * MIB
    yield from counting(area)
    assert os.pread(descriptor, MIB, MIB) == b"m" * MIB
    assert os.stat("/dev/shm/godwit").st_size == 4 * MIB
    os.unlink("/dev/shm/godwit")


@kind
def posix_shm_unlinked():
    descriptor = os.open("/dev/shm/gone", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, MIB)
    area = mmap.mmap(descriptor, MIB)
    os.unlink("/dev/shm/gone")
    yield from counting(area)
    assert not os.path.exists("/dev/shm/gone")


@kind
def memfd():
    import fcntl

    descriptor = os.memfd_create("kept", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, MIB)
    fcntl.fcntl(descriptor, 1033, 2 | 4)  # F_ADD_SEALS: shrink, grow
    area = mmap.mmap(descriptor, MIB)
    yield from counting(area)
    assert fcntl.fcntl(descriptor, 1034) == 2 | 4
    assert os.pread(descriptor, 8, 0) == area[:8]
    try:
        os.ftruncate(descriptor, 10)
        raise AssertionError("the seal is lost")
    except PermissionError:
        pass


@kind
def mapped_file_shared():
    descriptor = os.open("/data/mapped-shared", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, MIB)
    area = mmap.mmap(descriptor, MIB)
    yield from counting(area)
    assert os.pread(descriptor, 4096, 0) == area[:4096]
    assert open("/data/mapped-shared", "rb").read() == area[:]


@kind
def mapped_file_private():
    with open("/data/mapped-private", "wb") as file:
        file.write(b"f" * MIB)
    descriptor = os.open("/data/mapped-private", os.O_RDWR)
    area = mmap.mmap(descriptor, MIB, flags=mmap.MAP_PRIVATE)
    written = set()
    while (yield):
        page = random.randrange(256)
        assert area[page * 4096] == (ord("w") if page in written else ord("f"))
        area[page * 4096] = ord("w")
        written.add(page)
    assert os.pread(descriptor, MIB, 0) == b"f" * MIB
    assert all(area[p * 4096] == (ord("w") if p in written else ord("f")) for p in range(256))


@kind
def moved_about():
    """Processes that move parts of their memory (mremap), give parts back, overwrite parts, and hand it on to children."""
    pages, part = 768, 64
    stop, stopper = os.pipe()
    os.set_blocking(stop, False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mremap.restype = libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def live(seed):
        chance = random.Random(seed)
        seeds = [chance.randrange(1, 1 << 30) for _ in range(pages)]
        area = libc.mmap(None, pages * 4096, 3, 0x22, -1, 0)
        content = lambda n: struct.pack("<QQ", n, seeds[n]) * 256 if seeds[n] else bytes(4096)
        put = lambda n, data: ctypes.memmove(area + n * 4096, data, 4096)
        is_right = lambda n: ctypes.string_at(area + n * 4096, 4096) == content(n)
        for n in range(pages):
            put(n, content(n))
        while True:
            what, n = chance.randrange(5), chance.randrange(pages)
            assert is_right(n), ("wrong", n, seeds[n])
            if what == 0:
                size = part * 4096
                aside = libc.mmap(None, size, 0, 0x22, -1, 0)
                here = area + (n - n % part) * 4096
                assert libc.mremap(here, size, size, 3, aside) == aside
                time.sleep(0.002)
                assert libc.mremap(aside, size, size, 3, here) == here
            elif what == 1:
                seeds[n] = 0
                assert libc.madvise(area + n * 4096, 4096, 4) == 0
            elif what == 2:
                seeds[n] = chance.randrange(1, 1 << 30)
                put(n, content(n))
            elif what == 3:
                child = os.fork()
                if child == 0:
                    put(n, bytes(4096))
                    os._exit(0 if all(is_right(other) for other in range(n % 13, pages, 13) if other != n) else 1)
                assert os.waitpid(child, 0)[1] == 0, "a child's memory is wrong"
            time.sleep(0.1)
            try:
                if os.read(stop, 1) == b"":
                    return all(is_right(other) for other in range(pages))
            except BlockingIOError:
                pass

    pids = []
    for seed in range(12):
        pid = os.fork()
        if pid == 0:
            os.close(stopper)
            try:
                os._exit(0 if live(seed) else 4)
            except BaseException:
                traceback.print_exc()
                os._exit(9)
        pids.append(pid)
    while (yield):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0), "one of the processes has ended"
    os.close(stopper)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert ends == [0] * len(pids), ends


@kind
def mapped_in_passing():
    """A shared mapping that is written again after the file was copied, and gone before the freeze."""
    round_number, areas, want = 0, {}, {}
    for n in range(40):
        with open(f"/data/passing-{n}", "wb") as file:
            file.write(bytes(4096))
    while (yield):
        n = round_number % 40
        round_number += 1
        descriptor = os.open(f"/data/passing-{n}", os.O_RDWR)
        area = mmap.mmap(descriptor, 4096)
        os.close(descriptor)
        assert area[0] == want.get(n, 0), (n, area[0], want.get(n))
        area[0] = (area[0] + 1) % 256
        areas[n] = area
        for other, held in list(areas.items()):
            held[0] = (held[0] + 1) % 256
            want[other] = held[0]
        last = (n + 20) % 40
        if last in areas:
            areas.pop(last).close()
    for n, value in want.items():
        assert open(f"/data/passing-{n}", "rb").read(1)[0] == value, n
