#!/usr/bin/env bash
# `make fuzz TIME=60 [TARGET=frame]`: coverage-guided fuzzing, TIME seconds a target. What is found new stays in
# target/fuzz/corpus; the small seeds are in fuzz/seeds. A crash ends the run: its input lies in target/fuzz/crashes, and
# wants to become a test with a name.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${TIME:-60}
targets=${TARGET:-$(sed -n 's/^name = "\([a-z]*\)"$/\1/p' fuzz/Cargo.toml)}
work=$PWD/target/fuzz

# Coverage of every edge, and comparisons (LLVM's SanitizerCoverage), in all crates; not in build scripts, as there is a target.
coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Ccodegen-units=1
    --cfg=fuzzing
)
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="${coverage[*]}" CARGO_TARGET_DIR=$work cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host"

for target in $targets; do
    printf '\n== %s, %s seconds\n' "$target" "$time"
    mkdir -p "$work/corpus/$target" "$work/crashes"
    "$work/$host/release/$target" "$work/corpus/$target" "fuzz/seeds/$target" -max_total_time="$time" -max_len=4096 -timeout=20 \
        -rss_limit_mb=4096 -print_final_stats=1 -verbosity=0 -artifact_prefix="$work/crashes/$target-"
done
