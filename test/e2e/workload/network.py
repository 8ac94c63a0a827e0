import fcntl, select, socket, struct, threading
from harness import *

TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL = 1, 4, 5


def exactly(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, "the connection ended"
        data += piece
    return data


def numbers(first, count):
    return b"".join(b"%08d" % (first + i) for i in range(count))


def listening(family=socket.AF_INET, address="127.0.0.1", port=0):
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(64)
    return listener


@kind
def tcp_without_a_client():
    listener = listening(address="0.0.0.0", port=7001)
    while (yield):
        assert not select.select([listener], [], [], 0)[0]
    client = socket.create_connection(("127.0.0.1", 7001))
    server, _ = listener.accept()
    client.sendall(b"first")
    assert server.recv(10) == b"first"
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def loopback(family, address):
    """A connection with unread data both ways; beside it one that is half closed, and its socket's options."""
    listener = listening(family, address)
    client = socket.socket(family)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.setsockopt(socket.IPPROTO_TCP, TCP_KEEPIDLE, 77)
    server.setblocking(False)
    half = socket.socket(family)
    half.connect(listener.getsockname())
    other_half, _ = listener.accept()
    half.sendall(b"last words")
    half.shutdown(socket.SHUT_WR)
    n = 0
    client.sendall(numbers(0, 500)), server.send(numbers(0, 500))
    while (yield):
        server.setblocking(True)
        assert exactly(server, 8) == numbers(n, 1) and exactly(client, 8) == numbers(n, 1)
        client.sendall(numbers(n + 500, 1)), server.sendall(numbers(n + 500, 1))
        server.setblocking(False)
        n += 1
        other_half.sendall(b"x")
        assert half.recv(1) == b"x"
    server.setblocking(True)
    assert exactly(server, 4000) == numbers(n, 500) and exactly(client, 4000) == numbers(n, 500)
    assert exactly(other_half, 10) == b"last words" and other_half.recv(1) == b""
    for option, value in ((TCP_NODELAY, 1), (TCP_KEEPIDLE, 77)):
        assert client.getsockopt(socket.IPPROTO_TCP, option) == value, option
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@kind
def tcp_loopback():
    yield from loopback(socket.AF_INET, "127.0.0.1")


@kind
def tcp6_loopback():
    try:
        listening(socket.AF_INET6, "::1").close()
    except OSError:  # a host without IPv6
        while (yield):
            pass
        return
    yield from loopback(socket.AF_INET6, "::1")


@kind
def udp():
    """Bound, connected and broadcast-able sockets; UDP itself promises nothing of what is in flight."""
    server, client = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 7002))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    client.connect(("127.0.0.1", 7002))
    name, n, lost = client.getsockname(), 0, 0
    server.settimeout(1), client.settimeout(1)
    while (yield):
        n += 1
        try:
            client.send(b"%d" % n)
            data, address = server.recvfrom(100)
            assert address == name and data == b"%d" % n
            server.sendto(data, address)
            assert client.recv(100) == data
        except TimeoutError:
            lost += 1
            while select.select([server], [], [], 0)[0]:
                server.recv(100)
            while select.select([client], [], [], 0)[0]:
                client.recv(100)
    assert lost <= 4 and n > 20, (lost, n)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1 and client.getsockname() == name


@kind
def tcp_outside():
    """Echo on port 7003 with a lag of 64 KB, so that there is always data in flight both ways; 7004 floods."""
    listener, flood = listening(address="0.0.0.0", port=7003), listening(address="0.0.0.0", port=7004)
    problems = []

    def echo(connection):
        held = b""
        while True:
            data = connection.recv(65536)
            held += data
            keep = 65536 if data else 0
            if len(held) > keep:
                connection.sendall(held[: len(held) - keep])
                held = held[len(held) - keep :]
            if not data:
                return connection.close()

    def pour(connection):
        """Reads to the end of a half-closed connection first, then answers how much that was, for ever."""
        total = 0
        while data := connection.recv(65536):
            total += len(data)
        n = 0
        try:
            while not os.path.exists("/finish"):
                connection.sendall(numbers(n, 1000))
                n += 1000
                time.sleep(0.002)
            connection.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client, which checks what it gets, has ended
        except Exception as error:
            problems.append(repr(error))

    def serve(sock, handler):
        while True:
            connection, _ = sock.accept()
            threading.Thread(target=handler, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, args=(listener, echo), daemon=True).start()
    threading.Thread(target=serve, args=(flood, pour), daemon=True).start()
    while (yield):
        pass
    time.sleep(0.5)
    assert not problems, problems


@kind
def short_connections():
    """Takes a connection, answers one line and closes, all the time: some are being made or closed at the freeze."""
    listener = listening(address="0.0.0.0", port=7005)
    count = [0]

    def serve():
        while True:
            connection, _ = listener.accept()
            line = connection.recv(100)
            connection.sendall(b"answer to " + line)
            connection.close()
            count[0] += 1

    threading.Thread(target=serve, daemon=True).start()
    while (yield):
        pass


@kind
def udp_outside():
    """Answers each datagram with itself; the client notes which were lost."""
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 7006))

    def serve():
        while True:
            server.sendto(*server.recvfrom(100))

    threading.Thread(target=serve, daemon=True).start()
    while (yield):
        pass
