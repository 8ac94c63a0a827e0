#!/usr/bin/env bash
# python.tar: Python 3 and busybox, for tests that need more of the kernel than a shell can reach.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/rootfs.sh"
current python && exit 0
begin python python3-minimal libpython3-stdlib
python=$(cd "$unpacked/usr/bin" && ls -d python3.* | grep -m1 -E '^python3\.[0-9]+$')
library=$unpacked/usr/lib/$python
# What nothing in a container without a terminal, a window or a certificate store asks for.
rm -rf --one-file-system "$library"/{test,lib2to3,idlelib,tkinter,turtledemo,ensurepip,distutils,pydoc_data,unittest,sqlite3,curses,dbm,xmlrpc,wsgiref,venv,config-*}
for extension in _ssl _hashlib _curses _curses_panel _dbm _tkinter readline _sqlite3 _crypt _lsprof audioop ossaudiodev nis; do
  rm -f "$library/lib-dynload/$extension".*
done
find "$library" -name '*test*.so' -delete
mkdir "$root/usr/lib"
cp -a "$library" "$root/usr/lib/"
cp -L "$unpacked/usr/bin/$python" "$root/usr/bin/"
ln -s "$python" "$root/usr/bin/python3"
with_libraries "$root/usr/bin/$python" "$root/usr/lib/$python"/lib-dynload/*.so
# Compiled here and never again: a container that did it at its start would carry the result from host to host.
PYTHONHOME=$root/usr "$loader" --library-path "$libraries" "$root/usr/bin/$python" -m compileall -q -j 0 \
  --invalidation-mode unchecked-hash -s "$root" -p / "$root/usr/lib/$python" >"$work/log" 2>&1 || { tail -n 1 "$work/log" >&2; exit 1; }
chown -R 0:0 "$root"
finish python
