//! Whether a real is in or out: not by one answer, but by several in a row.

use std::time::Duration;

/// How a real is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum State {
    /// Not known yet: it is used as configured, but no reason to announce anything.
    #[default]
    Unknown,
    /// In the ring.
    In,
    /// Out of it.
    Out,
}

/// A state, and how many answers in a row say another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Standing {
    state: State,
    against: u32,
}

impl Standing {
    /// Notes an answer; whether the state changed. The first good answer of all is enough: nothing is known against it.
    pub(super) fn note(&mut self, is_good: bool, rise: u32, fall: u32) -> bool {
        let (other, needed) = match (self.state, is_good) {
            (State::Unknown, true) => (State::In, 1),
            (State::Out, true) => (State::In, rise),
            (State::Unknown | State::In, false) => (State::Out, fall),
            (State::In, true) | (State::Out, false) => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        *self = Self { state: other, against: 0 };
        true
    }

    pub(super) fn is_in(self) -> bool {
        self.state == State::In
    }

    pub(super) fn is_out(self) -> bool {
        self.state == State::Out
    }

    pub(super) fn name(self) -> &'static str {
        match self.state {
            State::Unknown => "unknown",
            State::In => "healthy",
            State::Out => "failed",
        }
    }
}

/// The interval, longer or shorter by up to `percent`: the same for the same turn, another for the next.
pub(super) fn with_jitter(interval: Duration, percent: u32, turn: u64) -> Duration {
    // SplitMix64 (Steele, Lea and Flood 2014): spread, not secret.
    let mut x = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let of_thousand = ((x >> 33) % 2001) as f64 / 1000.0 - 1.0;
    interval.mul_f64(1.0 + f64::from(percent) / 100.0 * of_thousand)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(answers: &[bool], rise: u32, fall: u32) -> Vec<&'static str> {
        let mut standing = Standing::default();
        answers
            .iter()
            .map(|answer| {
                standing.note(*answer, rise, fall);
                standing.name()
            })
            .collect()
    }

    #[test]
    fn it_takes_as_many_in_a_row() {
        let (good, bad) = (true, false);
        assert_eq!(
            states(&[good, bad, bad, good, bad, bad, bad], 2, 3),
            ["healthy"; 6].iter().chain(&["failed"]).copied().collect::<Vec<_>>()
        );
        assert_eq!(
            states(&[bad, bad, bad, good, bad, good, good], 2, 3),
            ["unknown", "unknown", "failed", "failed", "failed", "failed", "healthy"]
        );
        assert_eq!(states(&[bad], 1, 1), ["failed"]);
    }

    #[test]
    fn jitter_stays_within_its_share_and_differs() {
        let interval = Duration::from_secs(10);
        let all: Vec<Duration> = (0..1000).map(|turn| with_jitter(interval, 10, turn)).collect();
        assert!(all.iter().all(|one| (Duration::from_secs(9)..=Duration::from_secs(11)).contains(one)));
        let (low, high) = (all.iter().min().expect("some"), all.iter().max().expect("some"));
        assert!(*high - *low > Duration::from_millis(1900), "{low:?} to {high:?}");
        assert_eq!(with_jitter(interval, 0, 7), interval);
    }
}
