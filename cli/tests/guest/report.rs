//! What was found, line by line.

use std::fmt;

/// Counts of results; each is printed as it comes.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    pub fn ok(&mut self, name: &str) {
        self.passed += 1;
        println!("ok {name}");
    }

    pub fn fail(&mut self, name: &str, why: &str) {
        self.failed += 1;
        println!("FAIL {name}: {}", why.replace('\n', " / "));
    }

    pub fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("skip {name}: {}", why.replace('\n', " / "));
    }

    pub fn result(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.ok(name),
            Err(why) => self.fail(name, &why),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// The line without which nothing counts.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        write!(f, "{}: {} passed, {} failed, {} skipped", release.trim(), self.passed, self.failed, self.skipped)
    }
}
