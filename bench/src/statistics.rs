//! Medians, and how far apart two series are beyond chance.

use crate::scenario::Rng;

/// Resamplings of a bootstrap.
const RESAMPLES: usize = 10_000;

/// The middle of a series; of an even number, between the two in the middle. `NaN` of an empty one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => f64::NAN,
        (Some(upper), 1) => *upper,
        (Some(upper), _) => f64::midpoint(*upper, sorted.get(middle - 1).copied().unwrap_or(*upper)),
    }
}

/// The least and the greatest; `NaN` of an empty series.
pub fn extremes(values: &[f64]) -> (f64, f64) {
    let fold = |f: fn(f64, f64) -> f64| values.iter().copied().fold(f64::NAN, f);
    (fold(f64::min), fold(f64::max))
}

/// A ratio of medians, with its bootstrap interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ratio {
    /// The median of one over that of the other.
    pub ratio: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Ratio {
    /// Whether the interval excludes 1 and its nearer end is at least `least` away from it.
    pub fn is_change(&self, least: f64) -> bool {
        self.low > 1.0 + least || self.high < 1.0 - least
    }
}

/// `after` over `before`: medians, and the percentile interval of 10,000 resamplings of both, which holds `confidence` of them (0.95:
/// 95 %). `None` of an empty series.
pub fn ratio(before: &[f64], after: &[f64], confidence: f64) -> Option<Ratio> {
    if before.is_empty() || after.is_empty() {
        return None;
    }
    let mut rng = Rng(0x7a11);
    let mut resample = |values: &[f64]| -> f64 {
        let drawn: Vec<f64> =
            (0..values.len()).filter_map(|_| values.get(rng.below(values.len() as u32) as usize).copied()).collect();
        median(&drawn)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| resample(after) / resample(before)).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios.get(((RESAMPLES - 1) as f64 * share).round() as usize).copied();
    let tail = (1.0 - confidence) / 2.0;
    Some(Ratio { ratio: median(after) / median(before), low: at(tail)?, high: at(1.0 - tail)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_extremes() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(extremes(&[3.0, 1.0, 2.0]), (1.0, 3.0));
    }

    /// Numbers around 100 with a spread of 2 %.
    fn noisy(seed: u64, middle: f64) -> Vec<f64> {
        let mut rng = Rng(seed);
        (0..15).map(|_| middle * (0.98 + 0.04 * rng.unit())).collect()
    }

    #[test]
    fn a_change_is_told_from_noise() {
        let changed = |after: f64| {
            let is_change = |seed: &u64| ratio(&noisy(*seed, 100.0), &noisy(seed + 1000, after), 0.95).unwrap().is_change(0.02);
            (0..20).filter(is_change).count()
        };
        assert_eq!((changed(100.0), changed(110.0)), (0, 20), "of 20 pairs without a difference, and with one of 10 %");
        let ratio = ratio(&[100.0; 5], &[130.0; 5], 0.95).unwrap();
        assert_eq!((ratio.ratio, ratio.low, ratio.high), (1.3, 1.3, 1.3));
    }

    #[test]
    fn more_confidence_is_a_wider_interval() {
        let width = |confidence| {
            let found = ratio(&noisy(1, 100.0), &noisy(2, 100.0), confidence).unwrap();
            found.high - found.low
        };
        assert!(width(0.9995) > width(0.95) && width(0.95) > width(0.5), "{} {}", width(0.9995), width(0.95));
    }
}
