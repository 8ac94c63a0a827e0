#!/usr/bin/env bash
# nginx.tar: nginx, its load generator wrk, and busybox, for the tests of real programs.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/rootfs.sh"
current nginx && exit 0
begin nginx nginx wrk
cp -L "$unpacked/usr/sbin/nginx" "$unpacked/usr/bin/wrk" "$root/usr/bin/"
with_libraries "$root/usr/bin/nginx" "$root/usr/bin/wrk"
echo 'www-data:x:33:33::/var/www:/bin/false' >>"$root/etc/passwd"
echo 'www-data:x:33:' >>"$root/etc/group"
mkdir -p "$root"/var/{log/nginx,lib/nginx,www}
chown -R 0:0 "$root"
finish nginx
