//! The order in which a search tries the prefix lengths of one space.

use tandem_engine::memory::prefixes::{NODES, STEPS};

/// Prefix lengths as a binary search tree in heap order, the best one for the prefixes it was made for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    heap: [u8; NODES],
}

/// One way to split lengths: what it costs, and the length at the top.
#[derive(Clone, Copy)]
struct Split {
    cost: u64,
    top: u8,
}

/// No tree of so few steps.
const NEVER: u64 = u64::MAX;

impl Order {
    /// The order for prefixes of which there are `counts[length]`; those of length 0 take no step.
    ///
    /// A search that ends at a prefix has taken as many steps as there are nodes above that gap between two lengths, and each
    /// step to longer lengths costs the prefix a marker. The sum of both, over all prefixes, is the least that a tree of
    /// [`STEPS`] levels can have (Knuth's optimum binary search trees, with a bound on the depth). Clients of no prefix count
    /// as a mean length does.
    pub fn new(counts: &[u64; 129]) -> Self {
        let lengths: Vec<u8> = (1..=128).filter(|&len| counts.get(usize::from(len)).is_some_and(|&count| count != 0)).collect();
        let weights: Vec<u64> = lengths.iter().filter_map(|&len| counts.get(usize::from(len)).copied()).collect();
        let mut order = Self { heap: [0; NODES] };
        let levels = levels(&weights);
        order.place(&lengths, &levels, (0, 0, lengths.len()));
        order
    }

    /// Puts the best tree of the lengths `from..to` at `node`.
    fn place(&mut self, lengths: &[u8], levels: &[Vec<Split>], (node, from, to): (usize, usize, usize)) {
        if from == to {
            return;
        }
        // Levels below this node: `node + 1` has a bit more on each.
        let depth = (node + 1).ilog2() as usize;
        let split = levels.len().checked_sub(1 + depth).and_then(|left| levels.get(left)?.get(at(lengths.len(), from, to)));
        let (Some(split), Some(place)) = (split, self.heap.get_mut(node)) else { return };
        let top = usize::from(split.top);
        *place = lengths.get(top).copied().unwrap_or(0);
        self.place(lengths, levels, (2 * node + 1, from, top));
        self.place(lengths, levels, (2 * node + 2, top + 1, to));
    }

    /// The lengths in heap order; 0 where a node is missing.
    pub fn heap(&self) -> &[u8] {
        &self.heap
    }

    /// The lengths at which a search for a prefix of length `len` goes on to longer ones.
    pub fn markers(&self, len: u8) -> impl Iterator<Item = u8> + '_ {
        let mut node = 0;
        std::iter::from_fn(move || {
            loop {
                let here = self.heap.get(node).copied().filter(|&here| here != 0 && here != len)?;
                node = 2 * node + if here < len { 2 } else { 1 };
                if here < len {
                    return Some(here);
                }
            }
        })
    }
}

/// Where the lengths `from..to` of `n` are in a level.
fn at(n: usize, from: usize, to: usize) -> usize {
    from * (n + 1) + to
}

/// The best split of each run of lengths, for trees of 0, 1, ... [`STEPS`] levels.
fn levels(weights: &[u64]) -> Vec<Vec<Split>> {
    let n = weights.len();
    let total: u64 = weights.iter().sum();
    // The gap before length `i` belongs to prefixes of length `i - 1`, the first to clients of no prefix.
    let miss = total / (n as u64 + 1);
    let sums: Vec<u64> = std::iter::once(0)
        .chain(weights.iter().scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        }))
        .collect();
    let sum = |from: usize, to: usize| sums.get(to).zip(sums.get(from)).map_or(0, |(to, from)| to - from);
    // The gaps around the lengths `from..to`.
    let gaps = |from: usize, to: usize| match from.checked_sub(1) {
        Some(before) => sum(before, to),
        None => miss + sum(0, to),
    };
    let none = |from, to| Split { cost: if from == to { 0 } else { NEVER }, top: 0 };
    let mut levels = vec![(0..=n).flat_map(|from| (0..=n).map(move |to| none(from, to))).collect::<Vec<Split>>()];
    for _ in 0..STEPS {
        let Some(below) = levels.last() else { break };
        let mut level = below.clone();
        for from in 0..n {
            for to in from + 1..=n {
                let of = |from, to| below.get(at(n, from, to)).map_or(NEVER, |split| split.cost);
                let cost = |top: usize| {
                    // Every gap takes this step; every prefix longer than the top needs a marker here.
                    let here = gaps(from, to) + sum(top + 1, to);
                    of(from, top).saturating_add(of(top + 1, to)).saturating_add(here)
                };
                let best = (from..to).map(|top| Split { cost: cost(top), top: top as u8 }).min_by_key(|split| split.cost);
                if let (Some(best), Some(cell)) = (best, level.get_mut(at(n, from, to))) {
                    *cell = best;
                }
            }
        }
        levels.push(level);
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(order: &Order, len: u8) -> Option<u32> {
        order.heap().iter().position(|&here| here == len).map(|node| (node + 1).ilog2() + 1)
    }

    /// What a search finds at the node of a length that is there.
    fn reaches(order: &Order, len: u8) -> bool {
        let mut node = 0;
        loop {
            match order.heap().get(node).copied().unwrap_or(0) {
                0 => return false,
                here if here == len => return true,
                here => node = 2 * node + if here < len { 2 } else { 1 },
            }
        }
    }

    #[test]
    fn every_length_has_its_place() {
        for step in 1..=128_usize {
            let mut counts = [0; 129];
            (step..=128).step_by(step).for_each(|len| counts[len] = (len * 7919 % 1000) as u64 + 1);
            let order = Order::new(&counts);
            for len in 1..=128_u8 {
                assert_eq!(reaches(&order, len), counts[usize::from(len)] != 0, "{step} {len}");
            }
        }
    }

    #[test]
    fn the_most_frequent_length_is_first() {
        let mut counts = [1; 129];
        counts[48] = 1_000_000;
        let order = Order::new(&counts);
        assert_eq!(depth(&order, 48), Some(1));
        assert_eq!(order.markers(48).count(), 0);
        assert!((1..=128).all(|len| depth(&order, len).is_some_and(|depth| depth <= STEPS)));
    }

    #[test]
    fn markers_are_where_the_search_goes_on_longer() {
        let mut counts = [0; 129];
        [8, 16, 24].iter().for_each(|&len| counts[len] = 1);
        let order = Order::new(&counts);
        assert_eq!(depth(&order, 16), Some(1), "balanced");
        assert_eq!(order.markers(24).collect::<Vec<_>>(), [16]);
        assert_eq!(order.markers(16).count() + order.markers(8).count(), 0);
        assert_eq!(Order::new(&[0; 129]).heap(), [0; NODES]);
    }
}
