#!/usr/bin/env bash
# Puts the numbers of a benchmark into README.md, between its marks: `scripts/readme-numbers.sh bench-results/DATE`.
# Only those of a release build, of which every row counts.
set -euo pipefail
cd "$(dirname "$0")/.."

numbers=${1:?the directory of a benchmark}/numbers.md
results=$1/results.json
grep -q '"profile": "release"' "$results" || { echo "error: $results: not of a release build; run \`make bench\`" >&2; exit 1; }
if grep -q '^      "valid": false' "$results"; then
    echo "error: $results: some rows are invalid; run \`make bench\` again on a machine that does nothing else" >&2
    exit 1
fi
scripts/readme-section.sh bench "$(realpath "$numbers")"
