"""An HTTP server as Python programs are deployed: a master forks workers that share one listening socket, each an
asyncio loop with a thread pool; the master itself only counts."""
import asyncio, hashlib, os, signal, socket, sys, time

listener = socket.create_server(("0.0.0.0", 8080), backlog=128)


async def serve(reader, writer):
    global total
    serial = 0
    loop = asyncio.get_running_loop()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")))
            body = await reader.readexactly(length)
            serial += 1
            total += 1
            await loop.run_in_executor(None, hashlib.sha256, body)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Serial: {serial}\r\nX-Total: {total}\r\nX-Work: {work}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has closed
    finally:
        writer.close()


async def worker():
    global work
    server = await asyncio.start_server(serve, sock=listener)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    while server.is_serving():
        await asyncio.sleep(0.02)
        work += 1


total = work = 0
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        asyncio.run(worker())
        sys.exit(0)
    children.append(pid)


def stop(*_):
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
ticks = 0
while True:
    time.sleep(0.1)
    ticks += 1
    print("tick", ticks, flush=True)
    if os.waitpid(-1, os.WNOHANG) != (0, 0):
        sys.exit("a worker has died")
