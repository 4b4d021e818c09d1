#!/usr/bin/env bash
# Stock Debian kernels for the tests, booted under QEMU without acceleration, network or disk.
#
#   scripts/kernels.sh fetch [SERIES]...   downloads kernels and QEMU (root; about 150 MB; 140 MB stay, unpacked)
#   scripts/kernels.sh complete            the same for what is not there yet
#   scripts/kernels.sh test [SERIES]...    boots each kernel that is there, one for each processor at a time, and sums up
#
# Series: 5.10 6.1 6.12 newest. Everything is kept in ~/.cache/tandem/kernels, or where TANDEM_KERNELS says. A kernel that
# was not fetched is skipped by name; TANDEM_REQUIRE_KERNELS=1, or naming the series, turns that into a failure.
# TANDEM_PART=doctor|cards|interop|nat|twins|katran|generic|life|capture|links|calibration runs that part of the guest alone, and writes no page.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=toolchain.sh
. "$(dirname "$0")/toolchain.sh"

store=${TANDEM_KERNELS:-$cache/kernels}
# Where each series comes from. Debian's archive moves on within a suite: what was fetched is said, not pinned.
declare -A SUITES=([5.10]=bullseye [6.1]=bookworm [6.12]=trixie [newest]=sid)
ALL=(5.10 6.1 6.12 newest)
# The drivers that the tests use; what they rest on is found by depmod. vmxnet3 is the card that QEMU and these kernels share.
MODULES=(veth dummy tun ipip sit ip6_tunnel ip_gre ip6_gre fou fou6 geneve 8021q bonding vmxnet3)
# Below it, guests crash now and then in places that have nothing to do with each other: an emulator's fault.
QEMU_LEAST=10

say() { echo "kernels: $*"; }
die() {
    echo "kernels: error: $*" >&2
    exit 1
}

work=
clean_up() {
    # Guests in their own process groups.
    jobs -rp | while read -r group; do kill -- "-$group" 2>/dev/null || true; done
    [ -z "$work" ] || rm -rf -- "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# --- fetch -------------------------------------------------------------------------------------------------

# The mirror of Debian that this host's apt uses.
mirror() {
    if [ -n "${TANDEM_DEBIAN_MIRROR:-}" ]; then
        echo "$TANDEM_DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC2016 # apt's own format
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
        awk '$3 == "Debian" && $2 !~ /-/ { print $1; exit }'
}

# suite_apt SUITE COMMAND...: apt on one suite alone, in a state of its own. The system's lists and packages stay as they are.
suite_apt() {
    local state=$work/apt-$1 tool=$2
    shift 2
    "$tool" -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 "$@"
}

open_suite() {
    local suite=$1 state=$work/apt-$1
    [ ! -d "$state" ] || return 0
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    : >"$state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $source_uri $suite main" >"$state/sources.list"
    say "reading the package list of $suite"
    suite_apt "$suite" apt-get update -qq || return 1
}

# download SUITE PACKAGE...: unpacks the packages into $work/root-SUITE.
download() {
    local suite=$1 into=$work/root-$1 deb
    shift
    mkdir -p "$work/debs-$suite" "$into"
    (cd "$work/debs-$suite" && suite_apt "$suite" apt-get download -qq "$@") || return 1
    for deb in "$work/debs-$suite"/*.deb; do
        say "$(basename "$deb"): $(du -h "$deb" | cut -f1)"
        dpkg -x "$deb" "$into"
        rm -f "$deb"
    done
}

depends() {
    local suite=$1
    shift
    suite_apt "$suite" apt-cache depends "$@" | awk '$1 == "Depends:" { print $2 }'
}

fetch_kernel() {
    local series=$1 suite=${SUITES[$1]} image packages root release
    open_suite "$suite" || return 1
    image=$(depends "$suite" linux-image-cloud-amd64 | grep -m1 '^linux-image-') || return 1
    # Newer packages of an image are empty and name two others.
    packages=$(depends "$suite" "$image" | grep -E '^linux-(binary|modules)-' || echo "$image")
    # shellcheck disable=SC2086 # a list
    download "$suite" $packages || return 1
    root=$work/root-$suite
    release=$(basename "$(find "$root/lib/modules" "$root/usr/lib/modules" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | head -n 1)")
    [ -n "$release" ] || return 1
    keep_kernel "$root" "$release" "$work/kept-$series" || return 1
    rm -rf -- "${store:?}/$series"
    mv "$work/kept-$series" "$store/$series"
    say "$series: Linux $release, $(du -sh "$store/$series" | cut -f1) kept"
}

# Keeps of an unpacked kernel: the image, and the modules under names in the order in which they load.
keep_kernel() {
    local root=$1 release=$2 to=$3 vmlinuz module file number=100
    # Modules are below /usr where /lib is a link to it; depmod looks below /lib.
    if [ ! -d "$root/lib/modules" ]; then
        mkdir -p "$root/lib"
        mv "$root/usr/lib/modules" "$root/lib/modules"
    fi
    vmlinuz=$(find "$root" \( -name vmlinuz -o -name 'vmlinuz-*' \) -type f | head -n 1)
    depmod -b "$root" "$release" || return 1
    mkdir -p "$to/modules"
    cp "$vmlinuz" "$to/vmlinuz"
    echo "$release" >"$to/release"
    echo "${MODULES[*]}" >"$to/for"
    while read -r file; do
        module=$(basename "$file")
        number=$((number + 1))
        case $file in
        *.xz) xz -dc "$root/lib/modules/$release/$file" >"$to/modules/$number-${module%.xz}" ;;
        *.zst) zstd -qdc "$root/lib/modules/$release/$file" >"$to/modules/$number-${module%.zst}" ;;
        *) cp "$root/lib/modules/$release/$file" "$to/modules/$number-$module" ;;
        esac
    done < <(load_order "$root/lib/modules/$release/modules.dep")
}

# The files of MODULES and of what they depend on, dependencies first, each once.
load_order() {
    local module
    for module in "${MODULES[@]}"; do
        # A line is `FILE: NEXT BEFORE-THAT …`.
        grep -E "/${module//_/[-_]}\.ko[.a-z]*:" "$1" | tr -d : | tr ' ' '\n' | tac
    done | awk 'NF && !seen[$0]++'
}

qemu_version() {
    "$1" --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p'
}

fetch_qemu() {
    local found suite
    found=$(qemu_version qemu-system-x86_64 || true)
    [ "${found:-0}" -lt "$QEMU_LEAST" ] || return 0
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")-backports
    open_suite "$suite" && download "$suite" qemu-system-x86 qemu-system-common qemu-system-data || return 1
    rm -rf -- "$store/qemu"
    mv "$work/root-$suite" "$store/qemu"
    rm -rf -- "$store"/qemu/usr/share/{doc,man,icons,applications} "$store"/qemu/usr/bin/qemu-{storage-daemon,vmsr-helper}
    say "QEMU: $("$(qemu)" --version | head -n 1), $(du -sh "$store/qemu" | cut -f1) kept"
}

# The one that was fetched, or the system's.
qemu() {
    local fetched=$store/qemu/usr/bin/qemu-system-x86_64
    if [ -x "$fetched" ]; then echo "$fetched"; else command -v qemu-system-x86_64 || true; fi
}

host_needs() {
    local missing=() pair
    for pair in qemu-system-x86_64:qemu-system-x86 depmod:kmod cpio:cpio xz:xz-utils zstd:zstd ip:iproute2 ethtool:ethtool; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ -e /usr/share/seabios/bios-256k.bin ] || missing+=(seabios)
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "missing: ${missing[*]}; run \`scripts/kernels.sh fetch\` as root once, or: apt-get install --no-install-recommends ${missing[*]}"
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
}

fetch() {
    local series failed=()
    command -v apt-get >/dev/null || die "there is no apt-get: the kernels come from Debian's archive"
    source_uri=$(mirror)
    [ -n "$source_uri" ] || die "apt knows no mirror of Debian; name one: TANDEM_DEBIAN_MIRROR=http://…/debian"
    mkdir -p "$store"
    work=$(mktemp -d "$store/fetch.XXXXXX")
    host_needs
    fetch_qemu || failed+=(QEMU)
    for series in "$@"; do
        fetch_kernel "$series" || failed+=("$series")
    done
    [ ${#failed[@]} -eq 0 ] || die "not fetched: ${failed[*]}"
}

# What is missing of all that there is to fetch.
complete() {
    local series missing=() version
    for series in "${ALL[@]}"; do
        [ -e "$store/$series/vmlinuz" ] || missing+=("$series")
    done
    version=$(qemu_version "$(qemu)" || true)
    if [ ${#missing[@]} -gt 0 ] || [ "${version:-0}" -lt "$QEMU_LEAST" ]; then fetch "${missing[@]}"; fi
}

# --- test --------------------------------------------------------------------------------------------------

# The guest program, as cargo built it.
build_guest() {
    local line
    # Its path is in cargo's own report. Packages and features are those of `make test`: with others, dependencies are all built a
    # second time.
    line=$(cd "$repo" && "$repo/scripts/with-toolchain.sh" cargo test --locked -q --workspace --exclude tandem-bpf "${features[@]}" --test guest --no-run --message-format=json |
        grep '"executable":"[^"]*/guest-[^"]*"' | tail -n 1) || die "the guest program does not build"
    sed 's/.*"executable":"\([^"]*\)".*/\1/' <<<"$line"
}

# The BPF object for the generic instruction set, by the build script itself, as cargo runs it.
build_generic() {
    # Where the script finds the libraries that the object for v3 was built with.
    local target=${CARGO_TARGET_DIR:-$repo/target}/generic
    local out=$target/build/backends/out
    rm -f "$out/tandem-bpf"
    mkdir -p "$out"
    say "building the BPF object for the generic instruction set"
    export CARGO_MANIFEST_DIR=$repo/backends OUT_DIR=$out CARGO_CFG_TARGET_ARCH=x86_64 TANDEM_BPF_CPU=generic
    "$repo/scripts/with-toolchain.sh" rustc --edition 2024 -o "$target/build-script" "$repo/backends/build.rs" &&
        "$repo/scripts/with-toolchain.sh" "$target/build-script" >/dev/null &&
        cp "$out/tandem-bpf" "$work/guest/generic"
}

# Copies a program and the libraries that it loads to the same paths below $2.
with_libraries() {
    local program=$1 to=$2 file
    while read -r file; do
        install -D "$file" "$to$file"
    done < <(ldd "$program" | grep -o '/[^ ]*')
}

# The initial file system: the guest as /init, the programs of the doctor's cures, their libraries, the kernel's modules. No shell, no disk, no network.
make_initrd() {
    local series=$1 root=$work/initrd-$1
    mkdir -p "$root/bin" "$root/modules" "$root"/{proc,sys,dev,tmp,run}
    cp -a "$work/guest/." "$root/"
    cp "$store/$series/modules"/*.ko "$root/modules/"
    (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >"$work/initrd-$series.gz"
    rm -rf -- "$root"
}

boot() {
    local series=$1 fetched=$store/qemu firmware=() mac cards=()
    if [ -d "$fetched" ]; then
        firmware=(-L "$fetched/usr/share/qemu" -L /usr/share/seabios)
        export QEMU_MODULE_DIR=$fetched/usr/lib/x86_64-linux-gnu/qemu
    fi
    # Three cards on one wire: two of a balancer's, and the far end.
    for mac in 00:08 00:09 07:07; do
        cards+=(-netdev "hubport,id=port${mac/:/},hubid=0" -device "vmxnet3,netdev=port${mac/:/},mac=02:00:00:00:$mac,romfile=")
    done
    # q35 without acceleration: hangs and crashes were seen with other machines, and there may be no KVM.
    timeout --foreground -k 5 "${TANDEM_GUEST_SECONDS:-900}" "$(qemu)" "${firmware[@]}" -machine q35,graphics=off -accel tcg -cpu max -smp 1 -m 1024 \
        "${cards[@]}" -no-reboot -nodefaults -display none -no-user-config -serial "file:$work/$series.log" \
        -kernel "$store/$series/vmlinuz" -initrd "$work/initrd-$series.gz" \
        -append "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off nokaslr TANDEM_VECTORS=/vectors TANDEM_GENERIC=/generic${TANDEM_LONG:+ TANDEM_LONG=1}${TANDEM_PART:+ TANDEM_PART=$TANDEM_PART}" </dev/null \
        2> >(grep -v 'hub 0 is not connected to host network' >&2)
}

# Boots one kernel and says what came of it: lines for people, results in $work/SERIES.results. A guest that dies leaves no last
# line, and QEMU says nothing of it.
run_kernel() {
    local series=$1 log=$work/$1.log results=$work/$1.results started=$SECONDS summary
    make_initrd "$series"
    boot "$series" || say "$series: QEMU ended with status $?"
    # The serial line begins with the firmware's escape codes and has carriage returns.
    tr -d '\r' <"$log" | grep -aE '^(ok|FAIL|skip|note:) |^[0-9][^ ]*: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' >"$results" || true
    grep -aE '^(FAIL|skip|note:) ' "$results" || true
    summary=$(grep -aE ' passed, .* failed, .* skipped$' "$results" | tail -n 1 || true)
    if [ -n "$summary" ]; then
        echo "$summary ($((SECONDS - started)) s)"
        echo "$((SECONDS - started)) seconds" >>"$results"
    else
        echo "FAIL $series: no last line: the guest died. The end of what it said:"
        tail -n 30 "$log" | tr -d '\r'
    fi
}

# As many at a time as there are processors: an emulated machine uses one.
run_kernels() {
    local series
    # Each in a process group of its own, to be ended as a whole.
    set -m
    for series in "$@"; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
        say "$series: Linux $(cat "$store/$series/release")"
        { said=$(run_kernel "$series" 2>&1) || true; echo "$said"; } &
    done
    wait
    set +m
}

# Adds up what a kernel said.
count_results() {
    local summary
    summary=$(grep -aE ' passed, .* failed, .* skipped$' "$work/$1.results" | tail -n 1 || true)
    if [ -z "$summary" ]; then
        failed=$((failed + 1))
        return
    fi
    passed=$((passed + $(sed 's/.*: \([0-9]*\) passed.*/\1/' <<<"$summary")))
    failed=$((failed + $(sed 's/.* \([0-9]*\) failed.*/\1/' <<<"$summary")))
    skipped=$((skipped + $(sed 's/.* \([0-9]*\) skipped$/\1/' <<<"$summary")))
    done_results+=("$work/$1.results")
}

test_kernels() {
    local series program named=$1 passed=0 failed=0 skipped=0 guest done_results=()
    shift
    mkdir -p "$store"
    work=$(mktemp -d "$store/test.XXXXXX")
    local there=()
    for series in "$@"; do
        if [ "$(cat "$store/$series/for" 2>/dev/null)" = "${MODULES[*]}" ] && [ -n "$(qemu)" ]; then
            there+=("$series")
        elif [ -n "$named" ] || [ "${TANDEM_REQUIRE_KERNELS:-0}" = 1 ]; then
            echo "FAIL $series: not fetched, or without a driver that the tests use now; run \`scripts/kernels.sh fetch\`"
            failed=$((failed + 1))
        else
            echo "skip $series: not fetched, or without a driver that the tests use now; run \`scripts/kernels.sh fetch\`"
            skipped=$((skipped + 1))
        fi
    done
    if [ ${#there[@]} -gt 0 ]; then
        guest=$(build_guest)
        mkdir -p "$work/guest/bin"
        strip -o "$work/guest/init" "$guest"
        with_libraries "$guest" "$work/guest"
        (build_generic) || die "the BPF object for the generic instruction set does not build"
        cp -r "$repo/cli/tests/katran/vectors" "$work/guest/vectors"
        # What the doctor's cures are written for; cargo builds our own with the tests of its package.
        program=$(dirname "$guest")/../tandem
        strip -o "$work/guest/bin/tandem" "$program"
        with_libraries "$program" "$work/guest"
        for program in ip sysctl sed ethtool mount; do
            cp -L "$(command -v $program)" "$work/guest/bin/$program"
            with_libraries "$(command -v $program)" "$work/guest"
        done
    fi
    run_kernels "${there[@]}"
    for series in "${there[@]}"; do count_results "$series"; done
    if [ "${TANDEM_BLESS:-0}" = 1 ] && [ -z "${TANDEM_PART:-}" ] && [ "$failed" = 0 ] && [ "${#done_results[@]}" = "${#ALL[@]}" ]; then
        "$guest" document "${done_results[@]}" >"$work/kernels.md"
        "$guest" readme "${done_results[@]}" >"$work/readme.md"
        cp "$work/kernels.md" "$repo/docs/kernels.md"
        "$repo/scripts/readme-section.sh" kernels "$work/readme.md"
        say "docs/kernels.md is written, and its part of README.md"
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}

# -----------------------------------------------------------------------------------------------------------

verb=${1:-}
[ $# -eq 0 ] || shift
for series in "$@"; do
    [ -n "${SUITES[$series]:-}" ] || die "\`$series\` is no series; there are: ${ALL[*]}"
done
case $verb in
fetch) if [ $# -gt 0 ]; then fetch "$@"; else fetch "${ALL[@]}"; fi ;;
complete) complete ;;
test) if [ $# -gt 0 ]; then test_kernels named "$@"; else test_kernels '' "${ALL[@]}"; fi ;;
*) die "usage: scripts/kernels.sh fetch|test [${ALL[*]}], or complete" ;;
esac
