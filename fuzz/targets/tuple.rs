//! Any text as the packet of `tandem trace`: one that is read makes a frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_backends::replay::Tuple;

fuzz_target!(|text: &str| {
    match text.parse::<Tuple>() {
        Ok(tuple) => assert!(tuple.frame().len() >= 14),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
