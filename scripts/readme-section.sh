#!/usr/bin/env bash
# Puts a file into README.md, between the marks of this name: `scripts/readme-section.sh NAME FILE`.
set -euo pipefail
cd "$(dirname "$0")/.."

begin="<!-- $1: begin -->" end="<!-- $1: end -->"
grep -qF "$begin" README.md && grep -qF "$end" README.md || { echo "error: README.md has lost its marks $begin and $end" >&2; exit 1; }
new=$(mktemp)
trap 'rm -f "$new"' EXIT
awk -v begin="$begin" -v end="$end" -v file="$2" '
    $0 == end { skip = 0 }
    !skip { print }
    $0 == begin { skip = 1; while ((getline line < file) > 0) print line }
' README.md >"$new"
cat "$new" >README.md
