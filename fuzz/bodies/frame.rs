//! Frames through the engine, on tables that stay from one frame of an input to the next. Nothing may panic, each frame
//! moves exactly one reason, and what is forwarded has a right outer IPv4 header.
//!
//! Input: 1 byte: the configuration; then frames, each behind its length (2 bytes, little endian).

use std::cell::RefCell;

use tandem_backends::config::{Plan, parse};
use tandem_backends::control::Counters;
use tandem_backends::memory::Sizes;
use tandem_backends::replay::{Action, Backend, Instance};
use tandem_engine::Reason;

/// What the data path can do, in few tables.
const PLANS: [&str; 3] =
    [include_str!("../plans/standard.toml"), include_str!("../plans/katran.toml"), include_str!("../plans/nat.toml")];
/// Frames of one input at most.
const FRAMES: usize = 64;

thread_local! {
    static INSTANCES: RefCell<Vec<Instance>> = RefCell::new(PLANS.iter().map(|text| instance(text)).collect());
}

fn instance(text: &str) -> Instance {
    let plan: Plan = parse(text, "plan").unwrap_or_else(|e| panic!("{e}")).plan;
    let sizes = Sizes { flow_sets: 64, ..Sizes::for_plan(&plan, 1) };
    Instance::with_sizes(Backend::Engine, &plan, 7, sizes).unwrap_or_else(|e| panic!("{e}"))
}

/// The frames of an input.
fn frames(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, more) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length) & 0x7ff).min(more.len());
        let (frame, more) = more.split_at(length);
        rest = more;
        Some(frame)
    })
    .take(FRAMES)
}

/// All reasons' frames.
fn counted(instance: &Instance) -> u64 {
    Counters::read(instance.tables(), 0..1).reasons.values().sum()
}

/// One input.
pub fn run(input: &[u8]) {
    let Some((which, rest)) = input.split_first() else { return };
    INSTANCES.with_borrow_mut(|instances| {
        let which = usize::from(*which) % instances.len();
        let Some(instance) = instances.get_mut(which) else { return };
        instance.forget_flows();
        let (before, mut sent) = (counted(instance), 0);
        for (n, frame) in frames(rest).enumerate() {
            instance.set_tick(1000 + n as u32);
            let (decision, out) = instance.frame(frame).unwrap_or_else(|e| panic!("{e}"));
            sent += 1;
            if decision.action == Action::Tx && decision.reason == Some(Reason::Forwarded) {
                // Without a tunnel the packet's own header goes on, and a checksum that was wrong stays wrong (RFC 1624).
                let own = out.len() == frame.len();
                assert!(sum(out) == 0xffff || own && sum(frame) != 0xffff, "{frame:02x?} -> {out:02x?}");
            }
        }
        assert_eq!(counted(instance) - before, sent, "each frame moves one reason");
    });
}

/// The sum of an IPv4 header's words: all ones if its checksum is right (RFC 1071), and for what has no such header.
fn sum(frame: &[u8]) -> u32 {
    let at = if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
    if frame.get(at - 2..at) != Some(&[8, 0]) {
        return 0xffff;
    }
    let length = usize::from(frame.get(at).copied().unwrap_or(0) & 0xf) * 4;
    let header = frame.get(at..at + length).unwrap_or_default();
    let sum: u32 = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16)
}
