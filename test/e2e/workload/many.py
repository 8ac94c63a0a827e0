"""100,000 small files; a container of its own, for they take their time."""
import hashlib
from harness import *

FILES, FOLDERS = 100_000, 250


def content(n, version):
    return b"%d %d " % (n, version) * (n % 9)


@kind
def hundred_thousand_files():
    versions = {}
    for folder in range(FOLDERS):
        os.makedirs(f"/data/many/{folder}")
    for n in range(FILES):
        with open(f"/data/many/{n % FOLDERS}/{n}", "wb") as file:
            file.write(content(n, 0))
    n = 0
    while (yield):
        n = (n + 7919) % FILES
        versions[n] = versions.get(n, 0) + 1
        with open(f"/data/many/{n % FOLDERS}/{n}", "wb") as file:
            file.write(content(n, versions[n]))
    found = 0
    for folder in range(FOLDERS):
        for name in os.listdir(f"/data/many/{folder}"):
            found += 1
            with open(f"/data/many/{folder}/{name}", "rb") as file:
                assert file.read() == content(int(name), versions.get(int(name), 0)), (name, versions.get(int(name)))
    assert found == FILES, found
