#!/usr/bin/env bash
# redis.tar: redis and busybox, for the demo and the tests.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/rootfs.sh"
current redis && exit 0
begin redis redis-server
with_libraries "$unpacked"/usr/bin/redis-{check-rdb,cli}
# Debian ships redis-server as a link to redis-check-rdb: one program that looks at its own name.
cp -L "$unpacked/usr/bin/redis-check-rdb" "$root/usr/bin/redis-server"
cp -L "$unpacked/usr/bin/redis-cli" "$root/usr/bin/"
echo 'redis:x:999:999::/var/lib/redis:/bin/sh' >>"$root/etc/passwd"
echo 'redis:x:999:' >>"$root/etc/group"
mkdir "$root/var/lib/redis"
chown -R 0:0 "$root"; chown 999:999 "$root/var/lib/redis"
finish redis
