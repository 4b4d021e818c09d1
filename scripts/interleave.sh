#!/usr/bin/env bash
# `make interleave`: models of those who read the tables with those who write them, under shuttle's scheduler (interleave/src/lib.rs).
# TANDEM_LONG=1: twenty times as many interleavings; TANDEM_SEED=N: others. In a target directory of its own: the engine is built with
# another feature there.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/interleave cargo test --locked --manifest-path interleave/Cargo.toml --no-fail-fast
