#!/usr/bin/env bash
# java.tar: a Java runtime with the compiler for programs in one file, and busybox, for the tests of real programs.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/rootfs.sh"
current java && exit 0
begin java openjdk-17-jdk-headless
jdk=$(find "$unpacked/usr/lib/jvm" -maxdepth 1 -name 'java-17-openjdk-amd64')
# Only what the tests use: a whole JDK is five times as large.
"$loader" --library-path "$jdk/lib:$libraries" "$jdk/bin/jlink" --module-path "$jdk/jmods" \
  --add-modules java.base,jdk.httpserver,jdk.compiler,java.management --strip-java-debug-attributes --no-man-pages --no-header-files \
  --output "$work/runtime" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
mkdir -p "$root/usr/lib/jvm"
mv "$work/runtime" "$root/usr/lib/jvm/java"
ln -s ../lib/jvm/java/bin/java "$root/usr/bin/java"
libraries=$root/usr/lib/jvm/java/lib:$root/usr/lib/jvm/java/lib/server:$libraries
with_libraries "$root/usr/lib/jvm/java/bin/java" "$root"/usr/lib/jvm/java/lib/*.so "$root"/usr/lib/jvm/java/lib/server/*.so
chown -R 0:0 "$root"
finish java
