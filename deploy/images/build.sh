#!/usr/bin/env bash
# Builds redis.tar: a root file system with redis and busybox, from the Debian packages of the machine's
# own sources, cut down to the programs and the libraries that they load. Needs no image registry.
set -euo pipefail
prefix=${GODWIT_PREFIX:-/opt/godwit}
out=$prefix/images/redis.tar
recipe=$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1)
[ "$(cat "$out.recipe" 2>/dev/null)" = "$recipe" ] && [ -s "$out" ] && exit 0

mkdir -p "$prefix/images"
work=$(mktemp -d "$prefix/images/.build.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir -p "$work/cache/archives/partial" "$work/unpacked" "$work/root"
: >"$work/status"
export LC_ALL=C
apt=(-o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache" -o APT::Architectures=amd64 -o APT::Sandbox::User=root)
download() { apt-get "${apt[@]}" -y --no-install-recommends --download-only install redis-server busybox-static >"$work/log" 2>&1; }
echo "godwit setup: building the redis image from Debian's packages"
# Package lists may be older than the archive: refresh them once before giving up.
download || { apt-get update >/dev/null 2>&1 || true; download; } || { tail -n 1 "$work/log" >&2; exit 1; }
for deb in "$work"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$work/unpacked"; done

cd "$work/unpacked"
loader=$(find . -name ld-linux-x86-64.so.2 | head -n 1)
path=$PWD/lib/x86_64-linux-gnu:$PWD/usr/lib/x86_64-linux-gnu
mkdir -p "$work"/root/{bin,dev,etc,lib/x86_64-linux-gnu,lib64,proc,root,run,sys,tmp,usr/bin,var/lib/redis}
chmod 1777 "$work/root/tmp"
cp bin/busybox "$work/root/bin/busybox" 2>/dev/null || cp usr/bin/busybox "$work/root/bin/busybox"
for applet in $("$work/root/bin/busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$work/root/bin/$applet"
done
for program in usr/bin/redis-check-rdb usr/bin/redis-cli; do
  cp -L "$program" "$work/root/usr/bin/"
  "$loader" --list --library-path "$path" "$program" | awk '/=> \//{print $3}' |
    while read -r lib; do cp -L "$lib" "$work/root/lib/x86_64-linux-gnu/"; done
done
# Debian ships redis-server as a link to redis-check-rdb: one program that looks at its own name.
mv "$work/root/usr/bin/redis-check-rdb" "$work/root/usr/bin/redis-server"
cp -L "$loader" "$work/root/lib64/ld-linux-x86-64.so.2"
printf 'root:x:0:0:root:/root:/bin/sh\nredis:x:999:999::/var/lib/redis:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$work/root/etc/passwd"
printf 'root:x:0:\nredis:x:999:\nnogroup:x:65534:\n' >"$work/root/etc/group"
chown -R 0:0 "$work/root"; chown 999:999 "$work/root/var/lib/redis"
tar --numeric-owner --sort=name --mtime=@0 -C "$work/root" -cf "$work/redis.tar" .
mv "$work/redis.tar" "$out"
printf '%s' "$recipe" >"$out.recipe"
