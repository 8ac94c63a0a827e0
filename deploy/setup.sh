#!/usr/bin/env bash
# Makes this machine ready for Godwit. Idempotent: what is already good is left alone.
#
# It uses npm and the machine's own apt sources and nothing else. Tools that the distribution ships too
# old (CRIU, nats-server) are taken from a later suite of those same sources and unpacked into a private
# prefix, each bound to the libraries it came with, so no library of the system is touched.
#
#   GODWIT_PREFIX  where the private tools and built images go   (/opt/godwit)
#   GODWIT_BIN     where the `godwit` command is linked          (/usr/local/bin)
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=${GODWIT_PREFIX:-/opt/godwit}
bindir=${GODWIT_BIN:-/usr/local/bin}
tools=$prefix/tools
suites=${GODWIT_SUITES:-"trixie forky sid"}
min_criu=4.1 min_nats=2.12.3 min_runc=1.1.0
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'godwit setup: %s\n' "$*"; }
die() { printf 'godwit setup: cannot continue: %s\n' "$*" >&2; exit 1; }
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

[ "$(uname -s)" = Linux ] || die "Godwit runs on Linux only; this is $(uname -s)"
[ "$(id -u)" = 0 ] || die "root is needed to run containers; run this again as root (sudo npm test)"
[ "$(uname -m)" = x86_64 ] || die "only x86_64 is supported so far; this is $(uname -m)"
command -v npm >/dev/null || die "npm is missing; install Node.js with npm first"
mkdir -p "$prefix" "$tools/bin"
# Code is run from here: nobody else may write it.
install -d -m 0700 "$prefix/cache/node"
# Two set-ups at once (a demo and a test run) would step on each other's half-made files.
exec 9>"$prefix/.lock"
flock 9

scratch=$(mktemp -d "$prefix/.setup.XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT

updated=
apt_update() {
  [ -z "$updated" ] || return 0
  command -v apt-get >/dev/null || die "apt-get is missing: install '$1' by hand, then run this again"
  apt-get update >"$scratch/apt.log" 2>&1 || true # a single dead source must not stop the others
  updated=1
}
# need COMMAND PACKAGE WHY
need() {
  command -v "$1" >/dev/null && return 0
  apt_update "$2"
  say "installing $2: $3"
  apt-get install -y --no-install-recommends "$2" >"$scratch/apt.log" 2>&1 ||
    die "apt-get could not install $2 ($(tail -n 1 "$scratch/apt.log"))"
}

# --- Node packages -------------------------------------------------------------------------------
lock=$(sha256sum "$repo/package.json" "$repo/package-lock.json" 2>/dev/null | sha256sum | cut -d' ' -f1)
stamp=$repo/node_modules/.godwit-setup
if [ "$(cat "$stamp" 2>/dev/null)" != "$lock" ]; then
  # zstd-napi compiles itself where its prebuilt binary cannot be had.
  if ! command -v g++ >/dev/null || ! command -v make >/dev/null || ! command -v python3 >/dev/null; then
    need g++ g++ "zstd-napi is compiled where its prebuilt binary cannot be had"
    need make make "the same"
    need python3 python3 "node-gyp is written in it"
  fi
  say "installing the npm packages of package-lock.json (with a Node of its own: $(node --version) may be too old)"
  # Not 'npm ci': it refuses a lock file without the binaries of platforms that Godwit does not run on.
  (cd "$repo" && npm install --no-save --no-audit --no-fund --loglevel=error </dev/null >"$scratch/npm.log" 2>&1) ||
    die "npm install failed: $(grep -m1 -i 'err' "$scratch/npm.log" || tail -n 1 "$scratch/npm.log")"
  printf '%s' "$lock" >"$stamp"
fi
node=$repo/node_modules/.bin/node
if ! "$node" --version >/dev/null 2>&1; then
  [ -e /usr/lib/x86_64-linux-gnu/libatomic.so.1 ] || need libatomic.so.1 libatomic1 "Node is linked with it"
fi
at_least "$("$node" -p process.versions.node)" 24 || die "Node 24 or later is needed and npm brought $("$node" --version)"

# --- what the distribution ships ------------------------------------------------------------------
need ip iproute2 "network namespaces, veth, bridges and VXLAN"
need bridge iproute2 "the overlay's table of hosts"
need nft nftables "keeps what arrives from closing its connections before it runs"
need runc runc "creates the containers"
need mount mount "overlayfs for containers, bind mounts for hosts on one machine"
need losetup mount "loop devices that a crash left behind are taken down with it"
need tar tar "CRIU packs a container's tmpfs with it"
v=$(runc --version | awk 'NR==1{print $3}')
at_least "${v%%[+~]*}" "$min_runc" || die "runc $min_runc or later is needed; this is $v"

# --- tools from a later suite ----------------------------------------------------------------------
later=
# later_suite PACKAGE MINIMUM: sets `later` to the first suite that ships it, its lists below $scratch.
later_apt() { apt-get -o "Dir::Etc::sourcelist=$scratch/$1.list" -o Dir::Etc::sourceparts=- \
  -o "Dir::State::lists=$scratch/$1" -o "Dir::State::status=$scratch/status" -o "Dir::Cache=$scratch/cache" \
  -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root "${@:2}"; }
later_suite() {
  command -v apt-get >/dev/null || die "$1 $2 or later is needed and there is no apt-get to take it from; put one on the PATH"
  local uri key suite have
  uri=$({ sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null
    sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null; } | grep -m1 '/debian/*$' || true)
  [ -n "$uri" ] || die "$1 $2 or later is needed, and this machine's apt sources name no Debian archive to take it from"
  key=$(ls /usr/share/keyrings/debian-archive-keyring.* 2>/dev/null | head -n 1 || true)
  mkdir -p "$scratch/cache/archives/partial"; : >"$scratch/status"
  for suite in $suites; do
    if [ ! -d "$scratch/$suite" ]; then
      mkdir -p "$scratch/$suite/partial"
      echo "deb ${key:+[signed-by=$key] }$uri $suite main" >"$scratch/$suite.list"
      later_apt "$suite" update >"$scratch/apt.log" 2>&1 || true
    fi
    have=$(apt-cache -o "Dir::State::lists=$scratch/$suite" -o "Dir::Etc::sourcelist=$scratch/$suite.list" -o Dir::Etc::sourceparts=- \
      -o "Dir::State::status=$scratch/status" -o "Dir::Cache=$scratch/cache" policy "$1" 2>/dev/null | awk '/Candidate:/{print $2}')
    have=${have#*:}
    if [ -n "$have" ] && [ "$have" != "(none)" ] && at_least "${have%%[+~-]*}" "$2"; then later=$suite; return 0; fi
  done
  die "no suite of ($suites) in this machine's apt archive ships $1 $2 or later"
}
# fetch_later PACKAGE: the package and all it depends on, unpacked below $scratch/root.
fetch_later() {
  rm -f "$scratch"/cache/archives/*.deb
  later_apt "$later" -y --no-install-recommends --download-only install "$1" >"$scratch/apt.log" 2>&1 ||
    die "apt-get could not download $1 of $later ($(tail -n 1 "$scratch/apt.log"))"
  rm -rf --one-file-system "$scratch/root"; mkdir "$scratch/root"
  local deb
  for deb in "$scratch"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$scratch/root"; done
}
# install_private BINARY NAME: with the loader and libraries it was built against, found by no environment.
install_private() {
  local binary=$1 name=$2 root=$scratch/root loader lib
  local dest=$tools/$name.new
  rm -rf --one-file-system "$dest"; mkdir -p "$dest/lib"
  cp "$binary" "$dest/$name"
  # A statically linked program (nats-server) has no interpreter and needs no such care.
  if patchelf --print-interpreter "$binary" >/dev/null 2>&1; then
    loader=$(find "$root" -name 'ld-linux-x86-64.so.2' \( -type f -o -type l \) | head -n 1)
    local path="$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu/systemd"
    "$loader" --list --library-path "$path" "$binary" | awk '/=> \//{print $3}' | while read -r lib; do cp -L "$lib" "$dest/lib/"; done
    cp -L "$loader" "$dest/lib/ld-linux-x86-64.so.2"
    patchelf --set-interpreter "$tools/$name/lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$tools/$name/lib" "$dest/$name"
  fi
  rm -rf --one-file-system "${tools:?}/$name"
  mv "$dest" "$tools/$name"
  ln -sfn "../$name/$name" "$tools/bin/$name"
}

criu_good() {
  local version
  command -v "$1" >/dev/null || return 1
  version=$("$1" --version 2>/dev/null | awk '/^Version:/{print $2}')
  [ -n "$version" ] && at_least "$version" "$min_criu" && timeout 20 "$1" check >/dev/null 2>&1
}
# deploy/criu/limits.c says what is different without this capability.
sees_limits() { (( 0x$(awk '/^CapEff:/{print $2}' /proc/self/status) >> 24 & 1 )); }
if ! { sees_limits && criu_good criu; } && ! criu_good "$tools/bin/criu"; then
  need patchelf patchelf "binds a newer CRIU to its own libraries"
  later_suite criu 4.2
  say "taking CRIU from $later into $tools: the host's is missing, too old, or not good enough for this kernel"
  fetch_later criu
  install_private "$(find "$scratch/root" -name criu -type f -perm -u+x | head -n 1)" criu
  criu_good "$tools/bin/criu" || die "no CRIU passes 'criu check' on this kernel: $("$tools/bin/criu" check 2>&1 | grep -m1 -i error || echo 'see criu check')"
fi
limits=$(sha256sum "$repo/deploy/criu/limits.c" | cut -d' ' -f1)
if ! sees_limits && [ "$(cat "$tools/criu/limits.recipe" 2>/dev/null)" != "$limits" ]; then
  need gcc g++ "a small library, without which CRIU needs CAP_SYS_RESOURCE for containers of other users than root"
  need patchelf patchelf "binds CRIU to it"
  say "giving CRIU another way to read the limits of other users' processes: CAP_SYS_RESOURCE is missing here"
  gcc -shared -fPIC -O2 -o "$scratch/libgodwit-limits.so" "$repo/deploy/criu/limits.c" >"$scratch/gcc.log" 2>&1 ||
    die "deploy/criu/limits.c does not compile: $(grep -m1 error "$scratch/gcc.log" || tail -n 1 "$scratch/gcc.log")"
  # In place of the former ones: a CRIU that runs keeps its own.
  mv "$scratch/libgodwit-limits.so" "$tools/criu/lib/"
  cp "$tools/criu/criu" "$scratch/criu.new"
  patchelf --print-needed "$scratch/criu.new" | grep -qx libgodwit-limits.so || patchelf --add-needed libgodwit-limits.so "$scratch/criu.new"
  mv "$scratch/criu.new" "$tools/criu/criu"
  criu_good "$tools/bin/criu" || die "CRIU does not work with deploy/criu/limits.c"
  printf '%s' "$limits" >"$tools/criu/limits.recipe"
fi
# deploy/criu/tracking.c says what it is for: kernels without soft-dirty tracking that can write-protect instead.
tracking=$(sha256sum "$repo/deploy/criu/tracking.c" | cut -d' ' -f1)
if [ "$(cat "$tools/lib/tracking.recipe" 2>/dev/null)" != "$tracking" ] &&
  "$node" --disable-warning=ExperimentalWarning --input-type=module -e '
    const { canWriteProtect } = await import(process.argv[1]);
    process.exit(canWriteProtect() ? 0 : 1);' "$repo/agent/tracking/support.ts" 2>/dev/null; then
  need gcc g++ "a small library, without which a frozen container's whole memory is compared"
  say "letting CRIU leave out memory that was sent before: this kernel has no soft-dirty tracking"
  gcc -shared -fPIC -O2 -o "$scratch/libgodwit-tracking.so" "$repo/deploy/criu/tracking.c" >"$scratch/gcc.log" 2>&1 ||
    die "deploy/criu/tracking.c does not compile: $(grep -m1 error "$scratch/gcc.log" || tail -n 1 "$scratch/gcc.log")"
  LD_PRELOAD="$scratch/libgodwit-tracking.so" timeout 20 "$tools/bin/criu" --version >/dev/null 2>&1 ||
    LD_PRELOAD="$scratch/libgodwit-tracking.so" timeout 20 criu --version >/dev/null || die "CRIU does not start with deploy/criu/tracking.c"
  mkdir -p "$tools/lib"
  mv "$scratch/libgodwit-tracking.so" "$tools/lib/"
  printf '%s' "$tracking" >"$tools/lib/tracking.recipe"
fi
# deploy/fence/fence.c says what it is for: without it a lost host's containers are not started elsewhere by themselves.
fence=$(sha256sum "$repo/deploy/fence/fence.c" | cut -d' ' -f1)
if [ "$(cat "$tools/lib/fence.recipe" 2>/dev/null)" != "$fence" ] || [ ! -x "$tools/bin/godwit-fence" ]; then
  need gcc g++ "a small program that stops a host's containers when the host has lost the cluster"
  say "building the fence of this host"
  gcc -O2 -o "$scratch/godwit-fence" "$repo/deploy/fence/fence.c" >"$scratch/gcc.log" 2>&1 ||
    die "deploy/fence/fence.c does not compile: $(grep -m1 error "$scratch/gcc.log" || tail -n 1 "$scratch/gcc.log")"
  mkdir -p "$tools/bin" "$tools/lib"
  # In place of the former one: a fence that runs keeps its own.
  mv "$scratch/godwit-fence" "$tools/bin/"
  printf '%s' "$fence" >"$tools/lib/fence.recipe"
fi
nats_good() { command -v "$1" >/dev/null && at_least "$("$1" --version 2>/dev/null | sed 's/.*v//')" "$min_nats"; }
if ! nats_good nats-server && ! nats_good "$tools/bin/nats-server"; then
  need patchelf patchelf "tells a static program from a dynamic one"
  later_suite nats-server "$min_nats"
  say "taking nats-server from $later into $tools: earlier ones can lose acknowledged writes"
  fetch_later nats-server
  install_private "$(find "$scratch/root" -name nats-server -type f -perm -u+x | head -n 1)" nats-server
  nats_good "$tools/bin/nats-server" || die "the nats-server of $later does not start here"
fi

# --- the images of the demo and the tests ----------------------------------------------------------
GODWIT_PREFIX=$prefix "$repo/deploy/images/build.sh" || die "an image for the demo and the tests could not be built"

# --- compiled code --------------------------------------------------------------------------------
# A daemon that has to compile itself at its first start needs some 20 MB more for as long as it lives. Without a
# configuration these end as soon as all of them has been read.
precompile() { # PROGRAM FLAG...
  program=$1; shift
  NODE_COMPILE_CACHE=$prefix/cache/node timeout 60 "$node" "$@" "$repo/$program/main.ts" </dev/null >"$scratch/compile.log" 2>&1 || true
}
agent_flags=$("$node" --input-type=module -e \
  "import { AGENT_FLAGS } from '$repo/agent/shim/agent-flags.ts'; console.log(AGENT_FLAGS.join(' '))") ||
  die "agent/shim/agent-flags.ts cannot be read"
# shellcheck disable=SC2086 # they are several words
precompile agent $agent_flags
precompile agent/shim
precompile services/api

# --- the command -----------------------------------------------------------------------------------
wrapper="#!/bin/sh
exec '$node' --disable-warning=ExperimentalWarning '$repo/services/cli/main.ts' \"\$@\""
if [ "$(cat "$bindir/godwit" 2>/dev/null)" != "$wrapper" ]; then
  mkdir -p "$bindir"
  printf '%s\n' "$wrapper" >"$scratch/godwit"; chmod 755 "$scratch/godwit"; mv "$scratch/godwit" "$bindir/godwit"
  say "put godwit into $bindir"
fi
say "ready"
