#!/usr/bin/env bash
# `make ci`: `make test`, then the kernels' tests, on the kernels that can be had. Those are fetched while the tests are built.
set -euo pipefail
cd "$(dirname "$0")/.."

# Everything is built once: what a second build could use takes a sixth more time.
export CARGO_INCREMENTAL=0
make --no-print-directory setup
log=$(mktemp)
scripts/kernels.sh complete >"$log" 2>&1 &
fetch=$!
trap 'kill "$fetch" 2>/dev/null || true; rm -f "$log"' EXIT
make --no-print-directory test
printf '\n== kernels\n'
fetched=0
wait "$fetch" || fetched=$?
cat "$log"
[ "$fetched" = 0 ] || echo "skipped: the kernels that could not be fetched, see above; those that are there are tested"
make --no-print-directory test-kernels
