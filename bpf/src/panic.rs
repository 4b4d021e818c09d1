//! A program that could panic is not loaded.
//!
//! The handler calls a function that nobody defines: an object whose code can reach it has an undefined symbol, which a
//! test finds without a kernel, and the verifier refuses. (`unreachable_unchecked` here would delete the failing check
//! instead, and the verifier would accept the wrong program.)

unsafe extern "C" {
    safe fn the_engine_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    the_engine_can_panic()
}
