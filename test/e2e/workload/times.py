import ctypes, select, struct
from harness import *

libc = ctypes.CDLL(None, use_errno=True)


@kind
def clocks():
    """None jumps back."""
    last = {}
    while (yield):
        for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_REALTIME):
            now = time.clock_gettime_ns(clock)
            assert now >= last.get(clock, 0), (clock, now, last[clock])
            last[clock] = now


@kind
def timerfd():
    """A periodic timer's ticks: counted by the kernel, never fewer than time has passed while it ran."""
    descriptor = libc.timerfd_create(1, 0o4000)
    interval = 10_000_000
    libc.timerfd_settime(descriptor, 0, struct.pack("qqqq", 0, interval, 0, interval), None)
    ticks = 0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while (yield):
        assert poll.poll(2_000), "no tick in 2 s"
        (n,) = struct.unpack("Q", os.read(descriptor, 8))
        ticks += n
    assert ticks > 20, ticks
    before = ticks
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        poll.poll(100)
        ticks += struct.unpack("Q", os.read(descriptor, 8))[0]
    assert 30 < ticks - before < 80, ticks - before


@kind
def interval_timers():
    hits = {signal.SIGALRM: 0, signal.SIGVTALRM: 0, signal.SIGUSR1: 0}

    def hit(number, _):
        hits[number] += 1

    for number in hits:
        signal.signal(number, hit)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.005, 0.005)
    # A POSIX timer (timer_create) that sends SIGUSR1 every 20 ms.
    event = struct.pack("Pii48x", 0, signal.SIGUSR1, 0)
    timer = ctypes.c_void_p()
    assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
    libc.timer_settime(timer, 0, struct.pack("qqqq", 0, 20_000_000, 0, 20_000_000), None)
    while (yield):
        sum(range(20_000))
    for number in hits:
        before, until = hits[number], time.monotonic() + 10
        while hits[number] < before + 5:
            sum(range(20_000))
            assert time.monotonic() < until, (number, hits)


@kind
def alarm():
    """A one-shot alarm far away keeps what was left of it."""
    signal.alarm(1000)
    started = time.monotonic()
    while (yield):
        left = signal.getitimer(signal.ITIMER_REAL)[0]
        assert 800 < left <= 1000, left
    # What the container stood still is not taken off, so it may be late, and is never early.
    passed = time.monotonic() - started
    assert signal.alarm(0) >= 1000 - passed - 2


@kind
def sleeping():
    """A thread inside nanosleep for the whole move wakes when it should."""
    import threading

    times = []

    def sleeper():
        for seconds in (0.3, 3.0, 0.3):
            began = time.monotonic()
            time.sleep(seconds)
            times.append((seconds, time.monotonic() - began))

    thread = threading.Thread(target=sleeper)
    thread.start()
    while (yield):
        pass
    thread.join(20)
    assert len(times) == 3 and all(took >= wanted - 0.01 for wanted, took in times), times
