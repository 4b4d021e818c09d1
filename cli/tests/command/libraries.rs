//! What a host must have for the binary to start.

use std::collections::BTreeSet;
use std::fs;

use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _};

/// The C library and the compiler's, in parts.
const ALWAYS: [&str; 5] = ["ld-linux-", "libc.so.", "libgcc_s.so.", "libm.so.", "ld64.so."];
/// Packages that a host may not have; `make static` needs none. They are named in `docs/operations.md`.
const PACKAGES: [&str; 3] = ["libelf.so.", "libpcap.so.", "libz.so."];

#[test]
fn no_library_is_needed_that_nobody_named() {
    let bytes = fs::read(env!("CARGO_BIN_EXE_tandem")).expect("the binary");
    let (data, wrong) = (bytes.as_slice(), "an ELF file of 64 bits");
    let header = FileHeader64::<object::Endianness>::parse(data).expect(wrong);
    let endian = header.endian().expect(wrong);
    let sections = header.sections(endian, data).expect(wrong);
    let (entries, names) = sections.dynamic(endian, data).expect(wrong).expect("a program with libraries");
    let names = sections.strings(endian, data, names).expect(wrong);
    let needed = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    let needed: BTreeSet<String> = needed
        .map(|entry| String::from_utf8_lossy(entry.string(endian, names).expect(wrong)).into_owned())
        .filter(|name| !ALWAYS.iter().any(|part| name.starts_with(part)))
        .collect();
    let known = |name: &String| PACKAGES.iter().any(|package| name.starts_with(package));
    assert!(!needed.is_empty() && needed.iter().all(known), "{needed:?}");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).expect("the page");
    for name in PACKAGES {
        assert!(page.contains(&format!("`{}`", name.trim_end_matches(".so."))), "docs/operations.md says nothing of {name}");
    }
}
