# Sourced by the recipes next to it: a root file system made from the Debian packages of the machine's own
# sources, cut down to the programs named and the libraries that they load. Needs no image registry.
prefix=${GODWIT_PREFIX:-/opt/godwit}
images=$prefix/images
export LC_ALL=C

recipe_of() { cat "$(dirname "${BASH_SOURCE[0]}")"/{rootfs.sh,"$1.sh"} | sha256sum | cut -d' ' -f1; }
# current NAME: whether that image is there and was made by these very recipes.
current() { [ "$(cat "$images/$1.tar.recipe" 2>/dev/null)" = "$(recipe_of "$1")" ] && [ -s "$images/$1.tar" ]; }

# begin NAME PACKAGE…: the packages and all that they depend on in $unpacked, an empty root with busybox in $root.
begin() {
  local name=$1 deb applet; shift
  mkdir -p "$images"
  work=$(mktemp -d "$images/.build.XXXXXX")
  trap 'rm -rf --one-file-system "$work"' EXIT
  unpacked=$work/unpacked root=$work/root
  mkdir -p "$work/cache/archives/partial" "$unpacked"
  : >"$work/status"
  echo "godwit setup: building the $name image from Debian's packages"
  # Package lists may be older than the archive: refresh them once before giving up.
  download "$@" busybox-static || { apt-get update >/dev/null 2>&1 || true; download "$@" busybox-static; } ||
    { tail -n 1 "$work/log" >&2; exit 1; }
  for deb in "$work"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$unpacked"; done
  loader=$(find "$unpacked" -name ld-linux-x86-64.so.2 | head -n 1)
  libraries=$unpacked/lib/x86_64-linux-gnu:$unpacked/usr/lib/x86_64-linux-gnu
  mkdir -p "$root"/{bin,dev,etc,lib/x86_64-linux-gnu,lib64,proc,root,run,sys,tmp,usr/bin,var/lib}
  chmod 1777 "$root/tmp"
  cp "$unpacked/bin/busybox" "$root/bin/busybox" 2>/dev/null || cp "$unpacked/usr/bin/busybox" "$root/bin/busybox"
  for applet in $("$root/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  cp -L "$loader" "$root/lib64/ld-linux-x86-64.so.2"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
}
download() {
  apt-get -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache" -o APT::Architectures=amd64 \
    -o APT::Sandbox::User=root -y --no-install-recommends --download-only install "$@" >"$work/log" 2>&1
}
# with_libraries FILE…: copies what these programs or extensions load into the root.
with_libraries() {
  local file lib
  for file in "$@"; do
    "$loader" --list --library-path "$libraries" "$file" | awk '/=> \//&&!/ld-linux/{print $3}' |
      while read -r lib; do [ -e "$root/lib/x86_64-linux-gnu/${lib##*/}" ] || cp -L "$lib" "$root/lib/x86_64-linux-gnu/"; done
  done
}
# finish NAME: the root becomes $images/NAME.tar; owners are as the recipe left them.
finish() {
  tar --numeric-owner --sort=name --mtime=@0 -C "$root" -cf "$work/$1.tar" .
  mv "$work/$1.tar" "$images/$1.tar"
  recipe_of "$1" >"$images/$1.tar.recipe"
}
