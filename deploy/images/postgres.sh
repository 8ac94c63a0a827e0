#!/usr/bin/env bash
# postgres.tar: PostgreSQL, its load generator pgbench, and busybox, for the tests of real programs.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/rootfs.sh"
current postgres && exit 0
begin postgres postgresql
home=$(cd "$unpacked/usr/lib/postgresql" && ls -d [0-9]* | head -n 1)
mkdir -p "$root"/usr/{lib,share}/postgresql "$root/etc/postgresql" "$root/run/postgresql"
cp -a "$unpacked/usr/lib/postgresql/$home" "$root/usr/lib/postgresql/"
cp -a "$unpacked/usr/share/postgresql/$home" "$root/usr/share/postgresql/"
cp -a "$unpacked/usr/share/zoneinfo" "$root/usr/share/"
# Compiled queries would bring all of LLVM along; PostgreSQL does without where the provider is missing.
rm -rf --one-file-system "$root/usr/lib/postgresql/$home/lib"/{llvmjit*,bitcode} "$root/usr/share/postgresql/$home"/man
with_libraries "$root/usr/lib/postgresql/$home/bin"/* "$root/usr/lib/postgresql/$home/lib"/*.so
for program in "$root/usr/lib/postgresql/$home/bin"/*; do ln -s "../lib/postgresql/$home/bin/${program##*/}" "$root/usr/bin/"; done
echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >>"$root/etc/passwd"
echo 'postgres:x:999:' >>"$root/etc/group"
ln -s ../run "$root/var/run"
mkdir "$root/var/lib/postgresql"
chown -R 0:0 "$root"; chown 999:999 "$root/var/lib/postgresql" "$root/run/postgresql"
finish postgres
