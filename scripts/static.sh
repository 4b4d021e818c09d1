#!/usr/bin/env bash
# One file that needs no library of the host that it runs on: for reals, routers and clients, and for balancers whose libraries are
# older than those it was built with. What it is made of are the same crates, and the static libraries of the same packages.
set -euo pipefail
cd "$(dirname "$0")/.."

triple=$(rustc -vV | sed -n 's/^host: //p')
built=${CARGO_TARGET_DIR:-target}/$triple/release/tandem
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" cargo build --release --locked -p tandem --bin tandem --target "$triple"

# Whoever adds a library learns of it here.
needed=$(LC_ALL=C readelf --dynamic --program-headers --wide "$built" | grep -E '\(NEEDED\)|INTERP' || true)
[ -z "$needed" ] || {
    echo "static: error: $built is not static:"$'\n'"$needed" >&2
    exit 1
}
# In a root that has nothing else: facts are read by the kernel's interfaces, a filter is compiled.
if [ "$(id -u)" = 0 ]; then
    root=$(mktemp -d)
    trap 'rm -rf -- "$root"' EXIT
    cp "$built" "$root/tandem"
    said=$(chroot "$root" /tandem doctor --role client --service udp,192.0.2.1:53,ipip --json || [ $? = 1 ])
    grep -q '"id": "D-58"' <<<"$said" || {
        echo "static: error: in an empty root, the doctor says: $said" >&2
        exit 1
    }
    said=$(chroot "$root" /tandem capture --name nobody --write - 'udp port' 2>&1 || true)
    grep -q 'pcap-filter' <<<"$said" || {
        echo "static: error: in an empty root, a wrong filter gets: $said" >&2
        exit 1
    }
fi
echo "$built: static, $(du -h "$built" | cut -f1)"
