"""What cannot move: each has to be refused, and go on where it is."""
import ctypes, socket, struct
from harness import *

libc = ctypes.CDLL(None, use_errno=True)


def state(pid):
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]


@kind
def stopped():
    """A process that stands still by SIGSTOP, as a shell's ^Z leaves it."""
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(0.01)
    os.kill(pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    while (yield):
        assert state(pid) == "T", state(pid)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.1)
    assert state(pid) == "S", state(pid)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == 15


@kind
def inotify_once():
    """A watch that ends with its first event."""
    descriptor = libc.inotify_init1(0o4000)
    watch = libc.inotify_add_watch(descriptor, b"/data", ctypes.c_uint(0x100 | 0x80000000))  # IN_CREATE, IN_ONESHOT
    while (yield):
        pass
    open("/data/new", "w").close()
    events = os.read(descriptor, 4096)
    assert struct.unpack_from("iI", events) == (watch, 0x100), events
    open("/data/newer", "w").close()
    try:
        raise AssertionError(os.read(descriptor, 4096))
    except BlockingIOError:
        pass


@kind
def eventfd_semaphore():
    semaphore = libc.eventfd(1_000_000, 0o4001)
    while (yield):
        assert struct.unpack("Q", os.read(semaphore, 8))[0] == 1


@kind
def not_accepted():
    """A client that is connected and that nobody has accepted yet."""
    listener = socket.create_server(("127.0.0.1", 7010))
    client = socket.create_connection(("127.0.0.1", 7010))
    client.sendall(b"waiting")
    while (yield):
        pass
    assert listener.accept()[0].recv(10) == b"waiting"
