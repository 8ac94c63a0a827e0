"""A few words of redis, in as many processes as are wanted: many-processes.py PROCESSES MEGABYTES_EACH.

The first one answers; it gets its memory from the client. The others hold as much, and sleep.
"""

import os
import select
import socket
import sys
import time

processes, megabytes = int(sys.argv[1]), int(sys.argv[2])
for _ in range(processes - 1):
    if os.fork() == 0:
        memory = [os.urandom(1 << 20) for _ in range(megabytes)]
        while True:
            time.sleep(3600)

values = {}


def answer(words):
    verb = words[0].upper()
    if verb == b"SET":
        values[words[1]] = bytes(words[2])
        return b"+OK\r\n"
    if verb == b"INCR":
        values[words[1]] = count = int(values.get(words[1], 0)) + 1
        return b":%d\r\n" % count
    if verb == b"INFO":
        return b"$11\r\nloading:0\r\n\r\n"
    return b"+OK\r\n"


class Client:
    def __init__(self, connection):
        self.connection, self.received = connection, b""

    def words(self):
        """One command (*N, then N times $BYTES and so many bytes), or None as long as it is not complete."""
        end = self.received.find(b"\r\n")
        if end < 0:
            return None
        words, at = [], end + 2
        for _ in range(int(self.received[1:end])):
            end = self.received.find(b"\r\n", at)
            if end < 0:
                return None
            size, at = int(self.received[at + 1 : end]), end + 2
            if len(self.received) < at + size + 2:
                return None
            words.append(self.received[at : at + size])
            at += size + 2
        self.received = self.received[at:]
        return words


listener = socket.create_server(("0.0.0.0", 6379))
clients = {}
waiting = select.epoll()
waiting.register(listener, select.EPOLLIN)
while True:
    for descriptor, _ in waiting.poll():
        if descriptor == listener.fileno():
            connection = listener.accept()[0]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients[connection.fileno()] = Client(connection)
            waiting.register(connection, select.EPOLLIN)
            continue
        client = clients[descriptor]
        data = client.connection.recv(1 << 20)
        if not data:
            clients.pop(descriptor).connection.close()
            continue
        client.received += data
        while (words := client.words()) is not None:
            client.connection.sendall(answer(words))
