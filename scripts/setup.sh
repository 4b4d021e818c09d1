#!/usr/bin/env bash
# Installs what building, testing and the demo need, and nothing that is there. Says each thing before it
# installs it. Without anything to do it takes well under a second and touches neither apt nor the network.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=toolchain.sh
. "$(dirname "$0")/toolchain.sh"

log=$cache/setup.log
policy=/usr/sbin/policy-rc.d
policy_mark='# written by tandem setup: a service must not start because it was installed'

say() { echo "setup: $*"; }
die() {
    echo "setup: error: $*" >&2
    exit 1
}

# Runs a command with its output in the log; shows the end of it if the command fails.
logged() {
    if ! "$@" </dev/null >>"$log" 2>&1; then
        tail -n 25 "$log" >&2
        return 1
    fi
}

# --- Debian packages ---------------------------------------------------------------------------------------

missing=()

# need PACKAGE PURPOSE TEST...: the package is missing if the test fails.
need() {
    local package=$1 purpose=$2
    shift 2
    "$@" >/dev/null 2>&1 || missing+=("$package: $purpose")
}

libclang_there() {
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib/*/libclang*.so*' || [ -n "${LIBCLANG_PATH:-}" ]
}

list_needs() {
    need gcc "C compiler, linker" command -v gcc
    need libc6-dev "C headers" test -e /usr/include/stdio.h
    need linux-libc-dev "kernel headers (AF_XDP)" test -e /usr/include/linux/if_xdp.h
    need make "builds libbpf" command -v make
    need pkg-config "finds libelf and zlib" command -v pkg-config
    need m4 "builds libxdp" command -v m4
    need clang "builds libxdp's BPF objects" command -v clang
    need libclang-dev "bindings of libxdp" libclang_there
    need libelf-dev "libbpf reads ELF with it" test -e /usr/include/libelf.h
    need zlib1g-dev "libelf needs it" test -e /usr/include/zlib.h
    need libpcap-dev "compiles the filters of tandem capture" test -e /usr/include/pcap/pcap.h
    need ca-certificates "crates.io over TLS" test -s /etc/ssl/certs/ca-certificates.crt
    need nginx "HTTP servers of the lab; no service is started" command -v nginx
    need iperf3 "TCP and UDP load of the lab" command -v iperf3
    need curl "HTTP client of the lab" command -v curl
    need ethtool "changes the number of receive queues in tests" command -v ethtool
    need systemd "checks the unit file; nothing of it is started" command -v systemd-analyze
    need nftables "rules that the doctor's tests break things with; no service is started" command -v nft
    need procps "kernel settings that the doctor's tests break things with" command -v sysctl
    need tshark "reads what the lab forwards and judges its checksums; nothing else is captured" command -v tshark
    need bird2 "speaks BGP in a test of the lab; no service is started" test -x /usr/sbin/bird
    need python3-venv "a Python with gRPC, which judges the API; its libraries come from PyPI" python3 -c "import ensurepip, venv"
}

# The version that apt would install, empty if it knows none.
candidate() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *//p' | grep -v '(none)' || true
}

remove_policy() {
    if [ -e "$policy" ] && grep -qF "$policy_mark" "$policy"; then
        rm -f "$policy"
    fi
}

apt_install() {
    local options=(-o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    # 45,000 small files, each synced to the disk: minutes. Only for this package, which nothing else rests on.
    if [ "$*" = rust-web-src ]; then options+=(-o Dpkg::Options::=--force-unsafe-io); fi
    logged env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${options[@]}" "$@"
}

apt_update() {
    [ -z "${apt_updated:-}" ] || return 0
    apt_updated=yes
    say "refreshing the package lists (apt-get update)"
    logged apt-get update || say "warning: apt-get update failed; going on with the lists that are there"
}

# install_debs "PACKAGE: PURPOSE"...
install_debs() {
    local entry package packages=()
    for entry in "$@"; do packages+=("${entry%%:*}"); done
    command -v apt-get >/dev/null || die "missing, and there is no apt-get to install them: ${packages[*]} (Debian's names); install your system's packages of them"
    [ "$(id -u)" = 0 ] || die "missing: ${packages[*]}; run \`make setup\` as root once, or: apt-get install --no-install-recommends ${packages[*]}"

    for package in "${packages[@]}"; do
        [ -n "$(candidate "$package")" ] || apt_update
    done
    for package in "${packages[@]}"; do
        [ -n "$(candidate "$package")" ] || die "apt knows no package \`$package\`; check /etc/apt (Debian 12: component main, with bookworm-security), then run \`make setup\` again"
    done
    for entry in "$@"; do say "installing ${entry%%:*} (${entry#*: })"; done

    # invoke-rc.d asks this file whether a service may start; one that is there already is somebody's decision.
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
        chmod +x "$policy"
    fi
    # Lists that are out of date name files that are gone: once more with fresh ones.
    apt_install "${packages[@]}" || { apt_update && apt_install "${packages[@]}"; } || die "apt-get could not install: ${packages[*]}; its output is in $log"
    remove_policy
}

install_packages() {
    local before=()
    list_needs
    before=("${missing[@]}")
    [ ${#before[@]} -gt 0 ] || return 0
    install_debs "${before[@]}"
    # Nor at the next boot (update-rc.d knows systemd too): only what this script has just installed is touched.
    if [[ " ${before[*]} " == *" nginx: "* ]]; then
        logged update-rc.d nginx disable || say "warning: nginx may start at the next boot; see $log"
    fi
    missing=()
    list_needs
    [ ${#missing[@]} -eq 0 ] || die "installed, yet still not found: ${missing[*]}; see $log"
}

# --- Rust --------------------------------------------------------------------------------------------------

rustup_may_install() {
    command -v rustup >/dev/null && [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ]
}

# Whether apt offers Rust packages that are new enough; old lists may not know them yet.
debian_rust() {
    command -v apt-cache >/dev/null || return 1
    version_at_least "$(candidate rustc-web)" "$RUST_PINNED" && return
    [ "$(id -u)" = 0 ] || return 1
    apt_update
    version_at_least "$(candidate rustc-web)" "$RUST_PINNED"
}

install_rust() {
    find_cargo && return
    if [ -n "${RUSTUP_TOOLCHAIN:-}" ]; then
        die "RUSTUP_TOOLCHAIN=$RUSTUP_TOOLCHAIN names a toolchain that is not installed or older than $RUST_PINNED; unset it, and rust-toolchain.toml decides"
    fi
    if rustup_may_install; then
        say "installing Rust $RUST_PINNED (rustup toolchain, with clippy, rustfmt and rust-src)"
        logged rustup toolchain install "$RUST_PINNED" --profile minimal -c clippy -c rustfmt -c rust-src || say "rustup could not fetch it"
        find_cargo && return
    fi
    if debian_rust; then
        install_debs "rustc-web: Rust compiler" "cargo-web: Rust's build tool" "rust-web-clippy: Rust's linter" "rustfmt-web: Rust's formatter"
        find_cargo && return
    fi
    die "no cargo >= $RUST_PINNED: not in PATH, ~/.cargo/bin or /usr/bin, and apt offers none (Debian 12: package cargo-web of bookworm-security). Install it with rustup: rustup toolchain install $RUST_PINNED -c clippy -c rustfmt -c rust-src"
}

install_bpf_rustc() {
    find_bpf_rustc && return
    if debian_rust; then
        version_at_least "$(dpkg-query -W -f '${Version}' rustc-web 2>/dev/null)" "$RUST_PINNED" || install_debs "rustc-web: compiles the BPF object"
        install_debs "rust-web-src: Rust's library sources, for the BPF target"
        find_bpf_rustc && return
    fi
    if rustup_may_install; then
        say "installing rust-src (rustup component: Rust's library sources, for the BPF target)"
        (cd "$repo" && logged rustup component add rust-src) || say "rustup could not fetch it"
        find_bpf_rustc && return
    fi
    die "no rustc with library sources and LLVM $LLVM_MAJOR for the BPF target. Install them: rustup component add rust-src --toolchain $RUST_PINNED, or Debian's packages rustc-web and rust-web-src (bookworm-security)"
}

# --- bpf-linker --------------------------------------------------------------------------------------------

build_bpf_linker() {
    say "building bpf-linker $BPF_LINKER_VERSION from crates.io (a few minutes, once)"
    # It spends its time in LLVM: its own code need not be optimised to the last.
    (
        cd "$repo"
        unset CARGO_TARGET_DIR CARGO_BUILD_TARGET RUSTFLAGS
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
            logged cargo install --locked bpf-linker --version "$BPF_LINKER_VERSION" --root "$cache/bpf-linker-$BPF_LINKER_VERSION"
    ) || die "bpf-linker $BPF_LINKER_VERSION could not be built; the output is in $log"
}

# bpf-linker takes the first libLLVM that it finds in LD_LIBRARY_PATH or beside PATH, of whatever version. The
# wrapper shows it the one that the BPF compiler itself runs on.
write_linker_wrapper() {
    local real=$1 llvm
    llvm=$(ldd "$TANDEM_BPF_RUSTC" | awk '$1 ~ /^libLLVM/ { print $3; exit }')
    [ -e "$llvm" ] || die "$TANDEM_BPF_RUSTC does not load LLVM as a shared library, which bpf-linker needs; use rustup's or Debian's (rustc-web) Rust $RUST_PINNED"
    mkdir -p "$cache/bin" "$cache/llvm"
    ln -sfn "$llvm" "$cache/llvm/libLLVM-$LLVM_MAJOR.so"
    cat >"$linker_wrapper.new" <<WRAPPER
#!/bin/sh
$(linker_note)
export LD_LIBRARY_PATH="$cache/llvm\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "$real" "\$@"
WRAPPER
    chmod +x "$linker_wrapper.new"
    RUSTC_BOOTSTRAP=1 logged "$TANDEM_BPF_RUSTC" --edition 2024 --crate-type bin --target bpfel-unknown-none \
        -C opt-level=2 -C linker="$linker_wrapper.new" -o "$cache/bpf-probe.o" "$repo/scripts/bpf-probe.rs" ||
        die "$TANDEM_BPF_RUSTC and $real cannot link a BPF program together; the output is in $log"
    rm -f "$cache/bpf-probe.o"
    mv "$linker_wrapper.new" "$linker_wrapper"
}

install_bpf_linker() {
    local real
    find_bpf_linker && return
    [ -z "${TANDEM_BPF_LINKER:-}" ] || die "TANDEM_BPF_LINKER=$TANDEM_BPF_LINKER is not a program; unset it or correct it"
    real=$(command -v bpf-linker || true)
    if [ -z "$real" ] || ! "$real" --version 2>/dev/null | grep -q '^bpf-linker 0\.10\.'; then
        real=$cache/bpf-linker-$BPF_LINKER_VERSION/bin/bpf-linker
        [ -x "$real" ] || build_bpf_linker
    fi
    write_linker_wrapper "$real"
    find_bpf_linker || die "the wrapper $linker_wrapper does not run; see $log"
}

# -----------------------------------------------------------------------------------------------------------

mkdir -p "$cache" 2>/dev/null || die "cannot create $cache, where bpf-linker and the log go; set HOME to a directory that you can write"
trap remove_policy EXIT
trap 'exit 130' INT TERM HUP
# Two at once would build the linker twice and fight over apt's lock.
exec 9>"$cache/lock"
flock 9
: >"$log"
if [ "$(id -u)" = 0 ]; then remove_policy; fi

install_packages
install_rust
install_bpf_rustc
install_bpf_linker
say "ready: Rust $RUST_FOUND; BPF by $TANDEM_BPF_RUSTC ($("$TANDEM_BPF_RUSTC" --version | cut -d' ' -f2)) and $("$TANDEM_BPF_LINKER" --version)"
