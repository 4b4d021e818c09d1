//! Sights of frames, which come in no order, in the order of their times; and to each frame what became of it.

use std::collections::{BTreeMap, HashMap};

use tandem_api::wire::{CapturedFate, CapturedFrame};

/// One sight of a frame, complete.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    /// As it was told.
    pub frame: CapturedFrame,
    /// Index of the interface, of that which it came in by if it leaves by the same; 0: not known.
    pub interface: u32,
    /// What became of it; none: that was lost.
    pub fate: Option<CapturedFate>,
}

impl Seen {
    /// Whether it leaves by an interface.
    pub fn leaves(&self) -> bool {
        self.fate.as_ref().is_some_and(|fate| fate.action == "tx")
    }
}

/// Those that wait.
#[derive(Default)]
pub struct Order {
    /// By time; of the same nanosecond the frame that comes in first.
    waiting: BTreeMap<(u64, u64, bool), CapturedFrame>,
    /// By mark.
    came_by: HashMap<u64, u32>,
    fates: HashMap<u64, CapturedFate>,
}

impl Order {
    pub fn add(&mut self, frames: Vec<CapturedFrame>) {
        for frame in frames {
            match &frame.fate {
                None => drop(self.came_by.insert(frame.mark, frame.interface)),
                Some(fate) => drop(self.fates.insert(frame.mark, fate.clone())),
            }
            self.waiting.insert((frame.time, frame.mark, frame.fate.is_some()), frame);
        }
    }

    /// Those that were seen before `until`.
    pub fn due(&mut self, until: u64) -> Vec<Seen> {
        let later = self.waiting.split_off(&(until, 0, false));
        let due = std::mem::replace(&mut self.waiting, later);
        due.into_values().map(|frame| self.seen(frame)).collect()
    }

    fn seen(&mut self, frame: CapturedFrame) -> Seen {
        let mark = frame.mark;
        match &frame.fate {
            None => {
                let fate = self.fates.get(&mark).cloned();
                if fate.is_none() {
                    // Nobody will ask.
                    self.came_by.remove(&mark);
                }
                Seen { interface: frame.interface, fate, frame }
            }
            Some(_) => {
                let (fate, came_by) = (self.fates.remove(&mark), self.came_by.remove(&mark));
                let interface = if frame.interface == 0 { came_by.unwrap_or(0) } else { frame.interface };
                Seen { interface, fate: fate.or_else(|| frame.fate.clone()), frame }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(mark: u64, time: u64, interface: u32, action: &str) -> CapturedFrame {
        let fate = (!action.is_empty()).then(|| CapturedFate { action: action.to_owned(), ..CapturedFate::default() });
        CapturedFrame { mark, time, interface, fate, ..CapturedFrame::default() }
    }

    #[test]
    fn both_sights_of_a_frame_know_of_each_other() {
        let mut order = Order::default();
        order.add(vec![sight(2, 25, 0, "drop"), sight(1, 10, 7, ""), sight(3, 30, 9, "")]);
        order.add(vec![sight(1, 20, 0, "tx"), sight(2, 15, 8, "")]);
        let rows = |seen: Vec<Seen>| -> Vec<_> {
            let action = |seen: &Seen| seen.fate.as_ref().map(|fate| fate.action.clone()).unwrap_or_default();
            seen.iter().map(|seen| (seen.frame.mark, seen.interface, action(seen), seen.leaves())).collect()
        };
        let row = |mark, interface, action: &str| (mark, interface, action.to_owned(), action == "tx");
        assert_eq!(rows(order.due(25)), [row(1, 7, "tx"), row(2, 8, "drop"), row(1, 7, "tx")]);
        // The first of them has lost the other one.
        assert_eq!(rows(order.due(u64::MAX)), [row(2, 8, "drop"), row(3, 9, "")]);
        assert!(order.came_by.is_empty() && order.fates.is_empty() && order.waiting.is_empty());
    }
}
