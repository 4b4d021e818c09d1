//! Any text as a configuration: a plan or an error, and a plan's sizes can be calculated.

use tandem_backends::config::parse;
use tandem_backends::memory::Sizes;

/// One input.
pub fn run(text: &str) {
    match parse(text, "fuzz.toml") {
        Ok(loaded) => {
            let sizes = Sizes::for_plan(&loaded.plan, 1);
            assert!(sizes.flow_sets.is_power_of_two() && sizes.ring_lines > 0);
            for vip in &loaded.plan.vips {
                assert!(!vip.to_string().is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
