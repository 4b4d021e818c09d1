# shellcheck shell=bash disable=SC2034 # (variables are for the scripts that source this)
# Finds the compilers; installs nothing. Sourced by setup.sh and with-toolchain.sh.
#
#   find_cargo       puts the directory of a fit cargo first in PATH, sets RUST_FOUND (its version)
#   find_bpf_rustc   sets TANDEM_BPF_RUSTC: a rustc with the library sources, for `-Z build-std=core`
#   find_bpf_linker  sets TANDEM_BPF_LINKER: the wrapper that setup.sh writes
#
# Each returns 1 and leaves its variable empty if there is none. Values that are set by hand win.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export HOME
# A plain user's PATH lacks the directories of nginx and friends.
PATH=$PATH:/usr/sbin:/sbin

# What the code is written for; the lints are judged by this compiler alone.
RUST_PINNED=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$repo/rust-toolchain.toml")
BPF_LINKER_VERSION=0.10.3
# The LLVM that this bpf-linker is written for. Its reader refuses bitcode of a newer one.
LLVM_MAJOR=22

# With what a build for users leaves out, where it can be built: one set of features, so that nothing is built twice.
features=()
if [ "$(uname -m)" = x86_64 ]; then features=(--features tandem-bench/bytecode,tandem/bytecode); fi

# Outside the checkout, so that `make clean` and a second clone keep the linker.
cache=$HOME/.cache/tandem
linker_wrapper=$cache/bin/bpf-linker

# version_at_least FOUND WANTED
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# The version of the cargo in directory $1, as it answers in this checkout (rustup reads
# rust-toolchain.toml). Never lets rustup download a toolchain: that is for setup.sh to announce.
cargo_version() {
    (cd "$repo" && PATH=$1:$PATH RUSTUP_AUTO_INSTALL=0 timeout 20 "$1/cargo" --version 2>/dev/null) |
        sed -n 's/^cargo \([0-9.]*\).*/\1/p'
}

find_cargo() {
    local directory version in_path
    in_path=$(command -v cargo || true)
    RUST_FOUND=
    for directory in "${in_path%/cargo}" "${CARGO_HOME:-$HOME/.cargo}/bin" "$HOME/.cargo/bin" /usr/local/bin /usr/bin; do
        [ -n "$directory" ] || continue
        [ -x "$directory/cargo" ] || continue
        version=$(cargo_version "$directory")
        if [ -n "$version" ] && version_at_least "$version" "$RUST_PINNED"; then
            export PATH=$directory:$PATH
            RUST_FOUND=$version
            return 0
        fi
    done
    return 1
}

# Whether the rustc at path $1 can build `core` for the BPF target and speaks bpf-linker's LLVM.
fit_for_bpf() {
    local sysroot
    sysroot=$(cd "$repo" && "$1" --print sysroot 2>/dev/null) || return 1
    [ -e "$sysroot/lib/rustlib/src/rust/library/core/Cargo.toml" ] || return 1
    "$1" -vV | grep -q "^LLVM version: $LLVM_MAJOR\."
}

find_bpf_rustc() {
    local own
    if [ -n "${TANDEM_BPF_RUSTC:-}" ]; then
        fit_for_bpf "$TANDEM_BPF_RUSTC"
        return
    fi
    # The toolchain's own rustc by its real path: rustup's proxy picks by directory, and the build runs in another.
    own=$(cd "$repo" && rustc --print sysroot 2>/dev/null)/bin/rustc
    for TANDEM_BPF_RUSTC in "$own" /usr/bin/rustc; do
        if [ -x "$TANDEM_BPF_RUSTC" ] && fit_for_bpf "$TANDEM_BPF_RUSTC"; then
            export TANDEM_BPF_RUSTC
            return 0
        fi
    done
    TANDEM_BPF_RUSTC=
    return 1
}

# What the wrapper must say: made for this rustc and its LLVM.
linker_note() {
    echo "# for $TANDEM_BPF_RUSTC, $("$TANDEM_BPF_RUSTC" --version)"
}

# Needs TANDEM_BPF_RUSTC.
find_bpf_linker() {
    if [ -n "${TANDEM_BPF_LINKER:-}" ]; then
        [ -x "$TANDEM_BPF_LINKER" ]
        return
    fi
    TANDEM_BPF_LINKER=
    [ -x "$linker_wrapper" ] && grep -qxF "$(linker_note)" "$linker_wrapper" || return 1
    "$linker_wrapper" --version 2>/dev/null | grep -q '^bpf-linker 0\.10\.' || return 1
    export TANDEM_BPF_LINKER=$linker_wrapper
}
