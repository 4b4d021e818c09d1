//! Numbers that nobody has, as runs: lines of rings, ids of VIPs and of reals.

use std::collections::BTreeMap;
use std::ops::Range;

/// First and length of each run; no two of them touch.
#[derive(Clone, Default, Debug)]
pub(super) struct Runs(BTreeMap<u32, u32>);

impl Runs {
    /// All of a range.
    pub fn of(range: Range<u32>) -> Self {
        Self(range.clone().next().map(|first| (first, range.end - first)).into_iter().collect())
    }

    /// The lowest number; `None`: there are none.
    pub fn lowest(&self) -> Option<u32> {
        self.0.first_key_value().map(|(first, _)| *first)
    }

    /// Takes the lowest run of `len`; gives its first.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let first = self.0.iter().find(|(_, found)| **found >= len).map(|(first, _)| *first)?;
        self.take_at(first, len).then_some(first)
    }

    /// Takes the lowest number in a range.
    pub fn take_within(&mut self, range: Range<u32>) -> Option<u32> {
        let in_run = self.0.range(..=range.start).next_back().filter(|(first, len)| *first + *len > range.start);
        let at = in_run.map(|_| range.start).or_else(|| self.0.range(range.clone()).next().map(|(first, _)| *first))?;
        self.take_at(at, 1).then_some(at)
    }

    /// Takes these very numbers; `false`: they are not all there.
    pub fn take_at(&mut self, at: u32, len: u32) -> bool {
        let Some((first, found)) = self.0.range(..=at).next_back().map(|(first, found)| (*first, *found)) else { return false };
        let (end, found_end) = (at + len, first + found);
        if found_end < end {
            return false;
        }
        self.0.remove(&first);
        if first < at {
            self.0.insert(first, at - first);
        }
        if end < found_end {
            self.0.insert(end, found_end - end);
        }
        true
    }

    /// Gives a run back.
    pub fn give(&mut self, at: u32, len: u32) {
        let before = self.0.range(..at).next_back().map(|(first, found)| (*first, *found));
        let first = before.filter(|(first, found)| first + found == at).map_or(at, |(first, _)| first);
        let end = at + len;
        let end = self.0.remove(&end).map_or(end, |more| end + more);
        self.0.insert(first, end - first);
    }

    /// Gives all of another's back.
    pub fn give_all(&mut self, others: Self) {
        others.0.into_iter().for_each(|(at, len)| self.give(at, len));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NUMBERS: u32 = 64;

    fn all(runs: &Runs) -> BTreeSet<u32> {
        let mut last = 0;
        for (first, len) in &runs.0 {
            assert!((*first > last || last == 0) && *len > 0, "runs touch: {runs:?}");
            last = first + len;
        }
        runs.0.iter().flat_map(|(first, len)| *first..first + len).collect()
    }

    proptest! {
        /// Against a set of numbers.
        #[test]
        fn runs_are_a_set(steps in prop::collection::vec((0..4_u8, 0..NUMBERS, 1..9_u32), 1..80)) {
            let (mut runs, mut model) = (Runs::of(1..NUMBERS), (1..NUMBERS).collect::<BTreeSet<_>>());
            let has = |model: &BTreeSet<u32>, at: u32, len: u32| (at..at + len).all(|n| model.contains(&n));
            for (step, at, len) in steps {
                match step {
                    0 => {
                        let expected = (0..NUMBERS).find(|first| has(&model, *first, len));
                        prop_assert_eq!(runs.take(len), expected);
                        model.retain(|n| expected.is_none_or(|first| !(first..first + len).contains(n)));
                    }
                    1 => {
                        let expected = has(&model, at, len);
                        prop_assert_eq!(runs.take_at(at, len), expected);
                        model.retain(|n| !(expected && (at..at + len).contains(n)));
                    }
                    2 => {
                        let expected = (at..at + len).find(|n| model.contains(n));
                        prop_assert_eq!(runs.take_within(at..at + len), expected);
                        model.retain(|n| expected != Some(*n));
                    }
                    _ if at + len <= NUMBERS && (at..at + len).all(|n| !model.contains(&n)) => {
                        runs.give(at, len);
                        model.extend(at..at + len);
                    }
                    _ => {}
                }
                prop_assert_eq!(all(&runs), model.clone());
                prop_assert_eq!(runs.lowest(), model.first().copied());
            }
        }
    }
}
