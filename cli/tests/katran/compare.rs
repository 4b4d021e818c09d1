//! The same frames through the model and through the product, and what differs.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::{Model, Outcome};
use crate::seats::Seat;
use crate::settings::Settings;

/// The model and every backend, on one configuration.
pub struct Bench {
    pub model: Model,
    pub seats: Vec<Seat>,
    settings: Settings,
    sent: Vec<Vec<u8>>,
}

impl Bench {
    pub fn new(settings: &Settings) -> Self {
        Self { model: Model::new(settings), seats: Seat::all(settings), settings: settings.clone(), sent: Vec::new() }
    }

    /// Another configuration for the same flows and counters.
    pub fn apply(&mut self, settings: &Settings) {
        self.model.configure(settings);
        self.seats.iter_mut().for_each(|seat| seat.apply(settings));
        self.settings = settings.clone();
    }

    /// Another configuration, and no flow or counter of before.
    pub fn restart(&mut self, settings: &Settings) {
        if self.settings != *settings {
            self.seats.iter_mut().for_each(|seat| seat.apply(settings));
        }
        self.seats.iter().for_each(Seat::start_anew);
        self.model = Model::new(settings);
        self.settings = settings.clone();
        self.sent.clear();
    }

    /// One frame through all; the model's outcome, or how a backend differs.
    pub fn frame(&mut self, frame: &[u8]) -> Result<Outcome, String> {
        self.sent.push(frame.to_vec());
        let expected = self.model.frame(frame);
        for seat in &mut self.seats {
            let found = seat.frame(frame);
            if found != expected {
                let what = format!("{}: {}", seat.name, difference(&expected, &found));
                return Err(self.report(&what));
            }
        }
        Ok(expected)
    }

    /// The counters of all; how a backend differs from the model.
    pub fn counters(&self) -> Result<(), String> {
        let expected = self.model.tally().rows();
        for seat in &self.seats {
            let differing = moved(&expected, &seat.tally());
            if !differing.is_empty() {
                let mut what = format!("{}: counters, expected and found:", seat.name);
                for (row, (expected, found)) in differing {
                    let _ = write!(what, " {row} {expected}/{found}");
                }
                return Err(self.report(&what));
            }
        }
        Ok(())
    }

    /// A difference with everything that is needed to see it again.
    fn report(&self, what: &str) -> String {
        let sent: Vec<String> = self.sent.iter().map(|frame| hex(frame)).collect();
        format!("{what}\nframes:\n{}\nconfiguration:\n{}", sent.join("\n"), self.settings.text())
    }
}

/// Rows that are not equal.
pub fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, (u64, u64)> {
    let rows = before.keys().chain(after.keys());
    let pair = |row: &String| (before.get(row).copied().unwrap_or(0), after.get(row).copied().unwrap_or(0));
    rows.map(|row| (row.clone(), pair(row))).filter(|(_, (a, b))| a != b).collect()
}

fn difference(expected: &Outcome, found: &Outcome) -> String {
    let text = |o: &Outcome| format!("{} {} {:?} {:?} {}", o.action, o.reason, o.vip, o.real, o.from);
    let (e, f) = (text(expected), text(found));
    if e != f {
        return format!("expected {e}\nfound {f}");
    }
    format!("{e}: the frame that was left, expected\n{}\nfound\n{}", hex(&expected.frame), hex(&found.frame))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
