//! A static build (`make static`) takes of libpcap the compiler of filters alone.
//!
//! Debian's libpcap can capture from D-Bus, too. Its static library then asks for D-Bus', which asks for systemd's, which there is
//! none of. The table of such sources in `pcap.c` ends where an entry is zero: with these two symbols it ends before D-Bus, and
//! nothing asks for it. Nobody here opens a capture of libpcap's, so that the table is never looked into.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        for symbol in ["dbus_create", "dbus_findalldevs"] {
            println!("cargo:rustc-link-arg=-Wl,--defsym={symbol}=0");
        }
    }
}
