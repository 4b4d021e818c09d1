// The smallest XDP program (`return XDP_PASS`), without `core`: setup.sh compiles and links it to prove that
// this rustc, bpf-linker and LLVM fit together, in half a second instead of at the end of a build.
#![feature(no_core, lang_items)]
#![no_core]
#![no_main]
#![allow(
    internal_features,
    reason = "lang items stand in for the `core` that is not built yet"
)]

#[lang = "pointee_sized"]
trait PointeeSized {}
#[lang = "meta_sized"]
trait MetaSized: PointeeSized {}
#[lang = "sized"]
trait Sized: MetaSized {}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn probe() -> u64 {
    2
}
