#!/usr/bin/env bash
# Makes what the virtual machines of test/vm start from, out of Debian's packages and nothing else. Idempotent.
#
#   $GODWIT_PREFIX/vm/root.img        Debian 12 with systemd, sshd and runc, shared by all machines (never written to)
#   $GODWIT_PREFIX/vm/SUITE/vmlinuz   that suite's kernel
#   $GODWIT_PREFIX/vm/SUITE/initrd    the modules that it needs to find its disks, and guest/init
#
# The machines share the root file system and differ in their kernels.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${GODWIT_PREFIX:-/opt/godwit}
vm=$prefix/vm
root_suite=bookworm kernel_suites="bookworm trixie"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'godwit vm setup: %s\n' "$*"; }
die() { printf 'godwit vm setup: cannot continue: %s\n' "$*" >&2; exit 1; }
mkdir -p "$vm"
exec 9>"$vm/.lock"
flock 9
scratch=$(mktemp -d "$vm/.setup.XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT

updated=
# need COMMAND PACKAGE WHY
need() {
  command -v "$1" >/dev/null && return 0
  [ -n "$updated" ] || apt-get update >"$scratch/apt.log" 2>&1 || true
  updated=1
  say "installing $2: $3"
  apt-get install -y --no-install-recommends "$2" >"$scratch/apt.log" 2>&1 || die "apt-get could not install $2 ($(tail -n 1 "$scratch/apt.log"))"
}
need qemu-system-x86_64 qemu-system-x86 "runs the virtual machines"
need mmdebstrap mmdebstrap "makes their root file system"
need mke2fs e2fsprogs "makes disks of folders without mounting anything"
need cpio cpio "packs the initial RAM disk"
need xz xz-utils "unpacks kernel modules"
need depmod kmod "says which kernel modules need which"
need ssh openssh-client "gives the machines their commands"
need patchelf patchelf "binds tools to their own libraries, or lets them go"
need openssl openssl "makes the certificates of the machines"

uri=$({ sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null
  sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null; } | grep -m1 '/debian/*$' || true)
[ -n "$uri" ] || die "this machine's apt sources name no Debian archive"
key=/usr/share/keyrings/debian-archive-keyring.gpg

recipe_of() { cat "$here/setup.sh" "$here"/guest/* | sha256sum | cut -d' ' -f1; }
recipe=$(recipe_of)
if [ "$(cat "$vm/recipe" 2>/dev/null)" = "$recipe" ]; then say "ready"; exit 0; fi

# --- kernels -----------------------------------------------------------------------------------------
suite_apt() { # SUITE COMMAND…: apt-get or apt-cache with the lists of that suite alone
  local suite=$1 program=$2; shift 2
  "$program" -o "Dir::Etc::sourcelist=$scratch/$suite.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$scratch/lists-$suite" \
    -o "Dir::State::status=$scratch/status" -o "Dir::Cache=$scratch/cache" -o APT::Architecture=amd64 -o APT::Architectures=amd64 \
    -o APT::Sandbox::User=root "$@"
}
mkdir -p "$scratch/cache/archives/partial"; : >"$scratch/status"
fetch_kernel() { # SUITE: unpacked below $scratch/SUITE
  local suite=$1 package
  mkdir -p "$scratch/lists-$suite/partial" "$scratch/$suite"
  echo "deb [signed-by=$key] $uri $suite main" >"$scratch/$suite.list"
  suite_apt "$suite" apt-get update >"$scratch/apt.log" 2>&1 || die "the lists of $suite cannot be had ($(tail -n 1 "$scratch/apt.log"))"
  package=$(suite_apt "$suite" apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" {print $2; exit}')
  [ -n "$package" ] || die "$suite has no linux-image-amd64"
  say "taking $package from $suite"
  (cd "$scratch" && suite_apt "$suite" apt-get download "$package" >"$scratch/apt.log" 2>&1) || die "$package could not be downloaded ($(tail -n 1 "$scratch/apt.log"))"
  dpkg-deb -x "$(ls "$scratch/${package}"_*.deb)" "$scratch/$suite"
}
# What the hosts of a cluster and their containers use, and what finds the disks.
modules=(kernel/{arch,crypto,lib,net} kernel/fs/{overlayfs,ext4,jbd2} kernel/fs/{mbcache,fscrypto}.ko
  kernel/drivers/{virtio,net/virtio_net.ko,net/net_failover.ko,net/veth.ko,net/vxlan,net/tun.ko,block/virtio_blk.ko,block/loop.ko})
take_modules() { # SUITE: into $scratch/modules
  local suite=$1 release from to path found
  from=$(find "$scratch/$suite" -mindepth 3 -maxdepth 4 -type d -path '*/lib/modules/*' | head -n 1)
  release=${from##*/}
  to=$scratch/modules/lib/modules/$release
  mkdir -p "$to"
  cp "$from"/modules.{order,builtin,builtin.modinfo} "$to/"
  for path in "${modules[@]}"; do
    for found in "$from/$path" "$from/$path.xz"; do
      [ -e "$found" ] || continue
      mkdir -p "$to/$(dirname "$path")"
      cp -r "$found" "$to/$(dirname "$path")/"
    done
  done
  find "$to" -name '*.ko.xz' -exec xz -d {} +
  depmod -b "$scratch/modules" "$release"
  echo "$release" >"$scratch/$suite.release"
}
make_initrd() { # SUITE
  local suite=$1 release out=$vm/$1 initrd=$scratch/initrd-$1 module
  release=$(cat "$scratch/$suite.release")
  mkdir -p "$initrd"/{bin,proc,sys,dev,root,modules} "$out"
  cp "$scratch/root/bin/busybox" "$initrd/bin/busybox"
  cp "$here/guest/init" "$initrd/init"; chmod 755 "$initrd/init"
  modprobe -d "$scratch/modules" -S "$release" --show-depends -a virtio_pci virtio_blk virtio_net ext4 crc32c_generic >"$scratch/depends" 2>"$scratch/modprobe.log" ||
    die "the kernel of $suite lacks a module: $(tail -n 1 "$scratch/modprobe.log")"
  awk '$1 == "insmod" && !seen[$2]++ {print $2}' "$scratch/depends" >"$scratch/order"
  : >"$initrd/modules/order"
  while read -r module; do
    cp "$module" "$initrd/modules/"
    basename "$module" >>"$initrd/modules/order"
  done <"$scratch/order"
  (cd "$initrd" && find . | cpio -o -H newc --quiet) >"$out/initrd.new"
  cp "$(ls "$scratch/$suite"/boot/vmlinuz-*)" "$out/vmlinuz.new"
  mv "$out/vmlinuz.new" "$out/vmlinuz"; mv "$out/initrd.new" "$out/initrd"
}

# --- the root file system ----------------------------------------------------------------------------
make_root() {
  say "making a root file system of $root_suite"
  mmdebstrap --mode=root --variant=apt --architectures=amd64 --skip=check/empty \
    --include=systemd-sysv,openssh-server,iproute2,nftables,runc,kmod,mount,procps,busybox-static,libatomic1 \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$root_suite" "$scratch/root" "deb [signed-by=$key] $uri $root_suite main" >"$scratch/mmdebstrap.log" 2>&1 ||
    die "mmdebstrap failed: $(grep -m1 -E '^E:' "$scratch/mmdebstrap.log" || tail -n 1 "$scratch/mmdebstrap.log")"
  local root=$scratch/root unit
  rm -rf --one-file-system "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  : >"$root/etc/machine-id"
  : >"$root/etc/fstab"
  install -m 644 "$here/guest/sshd.conf" "$root/etc/ssh/sshd_config.d/godwit.conf"
  # What an emulated processor would be busy with for nothing: disks and network are set up before systemd.
  for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-timesyncd.service systemd-networkd.service systemd-resolved.service apt-daily.timer apt-daily-upgrade.timer \
    getty.target getty-static.service systemd-update-utmp-runlevel.service dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@.service serial-getty@.service \
    systemd-update-utmp.service systemd-pstore.service systemd-hwdb-update.service systemd-logind.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  rm -f "$root/etc/systemd/system/default.target"
  ln -s /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
  mkdir -p "$root/opt/godwit"
}
make_disk() {
  local megabytes
  megabytes=$(($(du -sm "$scratch/root" | cut -f1) + 2048))
  rm -f "$vm/root.img.new"
  mke2fs -q -t ext4 -O ^has_journal -m 0 -L godwit-root -d "$scratch/root" "$vm/root.img.new" "${megabytes}M" >"$scratch/mke2fs.log" 2>&1 ||
    die "mke2fs failed: $(tail -n 1 "$scratch/mke2fs.log")"
  mv "$vm/root.img.new" "$vm/root.img"
}

rm -f "$vm/recipe"
for suite in $kernel_suites; do fetch_kernel "$suite"; take_modules "$suite"; done
make_root
cp -r "$scratch/modules/lib/modules" "$scratch/root/usr/lib/"
for suite in $kernel_suites; do make_initrd "$suite"; done
make_disk
echo "$recipe" >"$vm/recipe"
say "ready"
