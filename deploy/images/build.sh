#!/usr/bin/env bash
# Builds the images of the demo and the tests that are missing or were made by an older recipe.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
for image in redis python; do bash "$here/$image.sh"; done
