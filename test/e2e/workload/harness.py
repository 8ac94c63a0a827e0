"""Runs each kind of work named on the command line in a process of its own until /finish exists.

A kind is a generator: its first `yield` says that it is set up, each later one that it has done one more piece of
work; after a `yield` that answers False it makes its last checks and returns. What came of it is in /result/KIND:
"ok", or the traceback.
"""
import os, signal, sys, time, traceback

# Where many kinds live for long on one machine, each does less: its pauses are so many times longer.
PACE = float(os.environ.get("PACE", "1"))
if PACE != 1:
    time.sleep = (lambda sleep: lambda seconds: sleep(seconds * PACE))(time.sleep)

KINDS = {}
UNITS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def work(name):
    try:
        generator = KINDS[name]()
        next(generator)
        write(f"/ready/{name}", "")
        count = 0
        try:
            while True:
                count += 1
                if count % 10 == 1:
                    write(f"/count/{name}", str(count))
                generator.send(not os.path.exists("/finish"))
                time.sleep(0.005)
        except StopIteration:
            pass
        write(f"/result/{name}", "ok")
    except BaseException:
        write(f"/ready/{name}", "")
        write(f"/result/{name}", traceback.format_exc())
    os._exit(0)


def main():
    for folder in ("ready", "count", "result", "data"):
        os.makedirs("/" + folder, exist_ok=True)
    for name in sys.argv[1:]:
        if os.fork() == 0:
            work(name)
    while True:  # init: reaps whatever is left to it
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.1)
