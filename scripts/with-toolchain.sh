#!/usr/bin/env bash
# Runs a command with the compilers that `make setup` found or installed:
#   scripts/with-toolchain.sh cargo build
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=toolchain.sh
. "$(dirname "$0")/toolchain.sh"

if ! find_cargo || ! find_bpf_rustc || ! find_bpf_linker; then
    echo "error: the toolchain is not complete; run \`make setup\`" >&2
    exit 1
fi
exec "$@"
