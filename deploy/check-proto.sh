#!/usr/bin/env bash
# Fails when proto/gen is not what the .proto files generate.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fresh=$(mktemp -d)
trap 'rm -rf --one-file-system "$fresh"' EXIT
cp -r "$repo/proto/." "$fresh/"
rm -r "$fresh/gen"
cd "$fresh"
sed -i "s#\.\./node_modules#$repo/node_modules#" buf.gen.yaml
PATH="$repo/node_modules/.bin:$PATH" buf generate
PATH="$repo/node_modules/.bin:$PATH" buf build -o gen/godwit.binpb
if ! diff -r "$fresh/gen" "$repo/proto/gen" >/dev/null; then
  echo "proto/gen is not what the .proto files generate: run 'npm run proto' and commit the result" >&2
  diff -rq "$fresh/gen" "$repo/proto/gen" >&2 || true
  exit 1
fi
