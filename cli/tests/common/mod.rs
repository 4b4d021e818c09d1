//! What the tests in a lab share.

use std::process::Command;

/// Whether labs can be built here; if they must be and cannot, that is a failure.
pub fn permitted() -> bool {
    match tandem_lab::check_permitted() {
        Ok(()) => true,
        Err(why) => {
            let required = std::env::var_os("TANDEM_REQUIRE_KERNEL").is_some_and(|v| v == "1");
            assert!(!required, "{why}");
            eprintln!("SKIPPED: {why}");
            false
        }
    }
}

/// The command under test.
pub fn tandem(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(arguments);
    command
}

/// What it says; it must succeed.
pub fn output(arguments: &[&str]) -> String {
    let output = tandem(arguments).output().expect("tandem starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
