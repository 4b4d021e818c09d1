//! What is going on: a bar on a terminal, plain lines elsewhere; both on standard error, as the result goes to standard output.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Something that takes a while; finished with the value.
pub struct Step {
    what: String,
    bar: Option<ProgressBar>,
    done: AtomicU64,
    length: u64,
    start: Instant,
}

impl Step {
    /// Begins a step of `length` parts; 0: not countable.
    pub fn begin(what: impl Into<String>, length: u64) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| drawn(&what, length));
        if bar.is_none() {
            eprintln!("{what}…");
        }
        Self { what, bar, done: AtomicU64::new(0), length, start: Instant::now() }
    }

    /// One more part is done; from any thread.
    pub fn advance(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// The step is done, with this to say about it.
    pub fn end(self, result: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{:<52} {result} ({seconds:.1} s)", self.what);
            }
            None => eprintln!("  {result} ({seconds:.1} s)"),
        }
    }
}

impl Drop for Step {
    /// A step that was not ended has failed or was interrupted: what follows says so.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
            let done = self.done.load(Ordering::Relaxed);
            let how_far = if self.length > 0 { format!(" at {done} of {}", self.length) } else { String::new() };
            eprintln!("{:<52} broken off{how_far}", self.what);
        }
    }
}

fn drawn(what: &str, length: u64) -> ProgressBar {
    let (bar, template) = match length {
        0 => (ProgressBar::new_spinner(), "{msg:<52} {spinner} {elapsed}"),
        _ => (ProgressBar::new(length), "{msg:<52} {bar:24} {pos}/{len}"),
    };
    // The templates are constants; one that does not parse leaves the library's own.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
