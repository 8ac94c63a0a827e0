#!/usr/bin/env bash
# Builds the images named that are missing or were made by an older recipe; without a name, those of the demo and of
# `npm test`. The others are those of `npm run test:programs`: postgres, node, java.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
[ $# -gt 0 ] || set -- redis python memcached nginx
for image in "$@"; do bash "$here/$image.sh"; done
