#!/usr/bin/env bash
# node.tar: the Node that Godwit itself runs on, and busybox, for the tests of real programs.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/rootfs.sh"
current node && exit 0
begin node libstdc++6 libatomic1
cp -L "$(dirname "${BASH_SOURCE[0]}")/../../node_modules/node/bin/node" "$root/usr/bin/"
with_libraries "$root/usr/bin/node"
chown -R 0:0 "$root"
finish node
