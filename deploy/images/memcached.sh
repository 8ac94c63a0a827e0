#!/usr/bin/env bash
# memcached.tar: memcached and busybox, for the tests of real programs.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/rootfs.sh"
current memcached && exit 0
begin memcached memcached
cp -L "$unpacked/usr/bin/memcached" "$root/usr/bin/"
with_libraries "$root/usr/bin/memcached"
echo 'memcache:x:998:998::/:/bin/false' >>"$root/etc/passwd"
echo 'memcache:x:998:' >>"$root/etc/group"
chown -R 0:0 "$root"
finish memcached
