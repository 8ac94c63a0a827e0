#!/usr/bin/env bash
# app-disk.sh DISK PUBLIC_KEY: the second disk of the virtual machines of one run, their /opt/godwit. It holds what
# deploy/setup.sh leaves on a host (the checkout with its packages, the tools), without what only development needs.
set -euo pipefail
disk=$1 public_key=$2
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
prefix=${GODWIT_PREFIX:-/opt/godwit}
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
die() { printf 'godwit vm: %s\n' "$*" >&2; exit 1; }
[ "$prefix" = /opt/godwit ] || die "the tools in $prefix know that folder only; run this without GODWIT_PREFIX"
for tool in criu nats-server; do
  [ -x "$prefix/tools/$tool/$tool" ] || die "$prefix/tools has no $tool of its own for Debian 12: this machine's is good enough for itself"
done
work=$(mktemp -d "$disk.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
top=$work/top
mkdir -p "$top/app"
(cd "$repo" && git ls-files -z --cached --others --exclude-standard | grep -zv '^node_modules/' |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done | tar --null -T - -cf -) | tar -xf - -C "$top/app"
# npm tells of complaints about the lock file by its exit code; an empty list is what would be wrong.
packages=$(cd "$repo" && npm ls --omit=dev --all --parseable 2>/dev/null | sed -n "s#^$repo/\(node_modules/.*\)#\1#p" | sort) || true
[ -n "$packages" ] || die "npm does not list the packages that Godwit needs; run deploy/setup.sh"
# A package's folder holds those nested in it.
(cd "$repo" && printf '%s\n' "$packages" node_modules/.bin/node | tar --exclude='*.d.ts' --exclude='*.map' -cf - -T -) | tar -xf - -C "$top/app"
cp -a "$prefix/tools" "$top/tools"
# A virtual machine has CAP_SYS_RESOURCE: CRIU is to show that it can do without the library for hosts that lack it.
if patchelf --print-needed "$top/tools/criu/criu" | grep -qx libgodwit-limits.so; then
  patchelf --remove-needed libgodwit-limits.so "$top/tools/criu/criu"
  rm "$top/tools/criu/lib/libgodwit-limits.so"
fi
mkdir "$top/images"
cp "$prefix/images/redis.tar"* "$top/images/"
cp "$public_key" "$top/authorized_keys"
chown 0:0 "$top" "$top/authorized_keys"; chmod 755 "$top"; chmod 644 "$top/authorized_keys"
mke2fs -q -t ext4 -O ^has_journal -m 0 -L godwit-app -d "$top" "$disk" "$(($(du -sm "$top" | cut -f1) * 11 / 10 + 64))M"
