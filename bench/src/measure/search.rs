//! The highest rate at which nothing is lost, or nearly nothing: a binary search over trials.

use anyhow::Result;

/// What one trial at a rate says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answer {
    /// The share of frames that were lost.
    pub lost: f64,
    /// The rate was offered, and nothing else was wrong.
    pub is_valid: bool,
}

/// How to search.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Search {
    /// Frames per second that are known to be too many, or are not to be exceeded.
    pub most: f64,
    /// Share of frames that may be lost.
    pub threshold: f64,
    /// Trials.
    pub steps: u32,
}

/// What was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The highest rate that passed; `None`: none did.
    pub rate: Option<f64>,
    /// Each trial: rate and share lost.
    pub trials: Vec<(f64, f64)>,
}

/// Searches between 0 and `most`. A trial that was not valid is counted as failed, after one more attempt.
///
/// # Errors
/// Those of `try_rate`.
pub fn loss_free(search: &Search, mut try_rate: impl FnMut(f64) -> Result<Answer>) -> Result<Found> {
    let (mut low, mut high, mut found, mut trials) = (0.0, search.most, None, Vec::new());
    for _ in 0..search.steps {
        let rate = f64::midpoint(low, high);
        let mut answer = try_rate(rate)?;
        if !answer.is_valid {
            answer = try_rate(rate)?;
        }
        trials.push((rate, answer.lost));
        if answer.is_valid && answer.lost <= search.threshold {
            found = Some(rate);
            low = rate;
        } else {
            high = rate;
        }
    }
    Ok(Found { rate: found, trials })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that loses whatever is above its capacity.
    fn search(capacity: f64, threshold: f64) -> Found {
        let lossy = |rate: f64| Ok(Answer { lost: (1.0 - capacity / rate).max(0.0), is_valid: true });
        loss_free(&Search { most: 1e6, threshold, steps: 12 }, lossy).unwrap()
    }

    #[test]
    fn finds_the_capacity_from_below() {
        let found = search(300_000.0, 0.0).rate.unwrap();
        assert!(found <= 300_000.0 && found > 299_500.0, "{found}");
        // One per cent may be lost: so much more passes.
        let found = search(300_000.0, 0.01).rate.unwrap();
        assert!(found <= 303_031.0 && found > 302_500.0, "{found}");
        assert_eq!(search(1.0, 0.0).rate, None);
    }

    #[test]
    fn a_trial_that_is_not_valid_is_tried_once_more_and_never_passes() {
        let mut tried = 0;
        let found = loss_free(&Search { most: 8.0, threshold: 1.0, steps: 3 }, |_| {
            tried += 1;
            Ok(Answer { lost: 0.0, is_valid: false })
        });
        assert_eq!((found.unwrap().rate, tried), (None, 6));
    }
}
