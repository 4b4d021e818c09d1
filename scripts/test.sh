#!/usr/bin/env bash
# What `make test` runs, in the order in which a mistake is cheapest to find. `--long`: full-length tests. `--soak`, `--twins`: that
# one alone. Everything is built in one profile (dev), so that the dependencies are compiled once.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source-path=SCRIPTDIR source=toolchain.sh
. scripts/toolchain.sh
[ ${#features[@]} -gt 0 ] || echo "skipped: the bytecode in userspace, which takes x86-64"

# Selected as below, so that nothing is built twice.
alone() {
    export TANDEM_REQUIRE_KERNEL=1
    exec cargo test --locked --workspace --exclude tandem-bpf "${features[@]}" --test "$1" -- --exact "$2" --nocapture
}
case ${1:-} in
--soak) alone production soak::soak ;;
--twins) alone twin rounds::generated_frames ;;
esac

step() { printf '\n== %s\n' "$*"; }

# Lints and formatting change from one compiler to the next: only the pinned one's verdict counts.
pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
found=$(rustc --version | cut -d' ' -f2)
deny=(-D warnings)
if [ "$found" != "$pinned" ]; then
    echo "note: rustc $found is not the pinned $pinned: format and warnings are shown, not enforced"
    deny=()
fi
enforced() {
    "$@" || [ "$found" != "$pinned" ]
}

if [ "${1:-}" = --long ]; then
    export TANDEM_LONG=1
else
    step "format"
    if cargo fmt --version >/dev/null 2>&1; then
        enforced cargo fmt --all --check
        enforced cargo fmt --manifest-path interleave/Cargo.toml --check
    else
        echo "skipped: no rustfmt (Debian: rustfmt-web; rustup: component rustfmt)"
    fi

    step "lints"
    if cargo clippy --version >/dev/null 2>&1; then
        cargo clippy --locked --all-targets "${features[@]}" -- "${deny[@]}"
    else
        echo "skipped: no clippy (Debian: rust-web-clippy; rustup: component clippy)"
    fi

    step "documentation"
    RUSTDOCFLAGS="${deny[*]}" cargo doc --locked --no-deps --document-private-items "${features[@]}"

    step "supply chain"
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "skipped: no cargo-deny (\`cargo install --locked --version 0.20.2 cargo-deny\`, then \`cargo deny fetch db\`)"
    else
        for manifest in Cargo.toml fuzz/Cargo.toml interleave/Cargo.toml; do
            cargo deny --locked --manifest-path "$manifest" --config deny.toml check licenses bans sources
        done
        if [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
            cargo deny --locked --offline check advisories
        else
            echo "skipped: the advisories, of which cargo-deny has no database (\`cargo deny fetch db\`)"
        fi
    fi
fi

step "interleavings${TANDEM_LONG:+ (long)}"
scripts/interleave.sh

# A test that needs the kernel skips with a reason where it cannot run; whoever can run it must not skip it.
# CapEff bits: 12 CAP_NET_ADMIN, 21 CAP_SYS_ADMIN, 39 CAP_BPF (linux/capability.h).
capabilities=$((16#$(sed -n 's/^CapEff:\s*//p' /proc/self/status)))
wanted=$(((1 << 12) | (1 << 21) | (1 << 39)))
if [ $((capabilities & wanted)) -eq $wanted ]; then
    export TANDEM_REQUIRE_KERNEL=${TANDEM_REQUIRE_KERNEL:-1}
else
    echo "note: without CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN the kernel tests are skipped; run as root for all"
fi

step "tests${TANDEM_LONG:+ (long)}"
# All of them, also after a failure: one run says everything that is wrong.
cargo test --locked --workspace --exclude tandem-bpf --no-fail-fast "${features[@]}"
