//! How far a benchmark is: a bar with the time left on a terminal, plain lines elsewhere; on standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The bar, or what stands in for it.
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of something that takes about so long.
    pub fn begin(time: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(time.as_millis() as u64);
            // The template is a constant; one that does not parse leaves the library's own.
            let style = ProgressStyle::with_template("{bar:24} {elapsed} of about {duration} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() {
            eprintln!("this takes about {} s", time.as_secs());
        }
        Self { bar }
    }

    /// What is going on.
    pub fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{what}"),
        }
    }

    /// Something that stays to be read.
    pub fn note(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("invalid: {what}")),
            None => eprintln!("  invalid: {what}"),
        }
    }

    /// So much of the time is done.
    pub fn advance(&self, time: Duration) {
        if let Some(bar) = &self.bar {
            bar.inc(time.as_millis() as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
