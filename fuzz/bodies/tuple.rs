//! Any text as the packet of `tandem trace`: one that is read makes a frame.

use tandem_backends::replay::Tuple;

/// One input.
pub fn run(text: &str) {
    match text.parse::<Tuple>() {
        Ok(tuple) => assert!(tuple.frame().len() >= 14),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
