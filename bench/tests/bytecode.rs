//! The kernel seat's bytecode in userspace does what the engine does: bytes, action and counters.

use std::net::Ipv4Addr;

use tandem_backends::control::{Counters, NoGrace};
use tandem_backends::memory::{Sizes, Tables};
use tandem_backends::replay::{Backend, Instance};
use tandem_bench::bytecode::{Bytecode, XDP_TX, set_tick};
use tandem_bench::scenario::Rng;
use tandem_bench::scene::{self, METHODS, vip};

/// A frame of each kind, to every method.
fn kinds() -> Vec<Vec<u8>> {
    let v4 = [vip::PLAIN, vip::ANY_PORT, vip::V6_REALS, vip::BYPASS, vip::NONE, Ipv4Addr::new(10, 202, 0, 1)];
    let mut frames: Vec<Vec<u8>> = v4.into_iter().chain(METHODS.map(|(_, vip)| vip)).map(scene::udp_v4).collect();
    frames.extend(
        [vip::PLAIN, vip::V6_REALS, vip::BYPASS].into_iter().flat_map(|to| [true, false].map(|syn| scene::tcp_v4(to, syn))),
    );
    frames.extend([vip::V6, vip::V6_NONE].map(scene::tcp_v6));
    frames
}

#[test]
fn the_same_bytecode_does_the_same() {
    const FRAMES: u32 = 50_000;
    let plan = scene::everything().unwrap();
    let tables = Tables::plain(Sizes::for_plan(&plan, 1)).unwrap();
    scene::apply(&plan, &tables, &NoGrace).unwrap();
    let mut engine = Instance::new(Backend::Engine, &plan, 1).unwrap();
    let mut bytecode = Bytecode::new(tables.clone()).unwrap();
    let (mut rng, kinds, mut sent, mut other) = (Rng(7), kinds(), 0, 0);
    bytecode
        .with(|machine| {
            for number in 0..FRAMES {
                let mut frame = kinds[rng.below(kinds.len() as u32) as usize].clone();
                let port = 1024 + rng.below(500) as u16;
                frame[34..36].copy_from_slice(&port.to_be_bytes());
                // Every other one with damage behind the Ethernet header, or cut short.
                if number % 2 == 1 {
                    let at = 12 + rng.below(frame.len() as u32 - 12) as usize;
                    frame[at] ^= 1 << rng.below(8);
                }
                if number % 16 == 3 {
                    frame.truncate(14 + rng.below(frame.len() as u32 - 14) as usize);
                }
                engine.set_tick(number / 100);
                set_tick(number / 100);
                let (decision, expected) = engine.frame(&frame).unwrap();
                let (action, found) = machine.frame(&frame).unwrap();
                assert_eq!((action, found), (decision.action as u32, expected), "frame {number}: {frame:02x?}");
                if action == XDP_TX { sent += 1 } else { other += 1 }
            }
            Ok(())
        })
        .unwrap();
    assert!(sent > FRAMES / 4 && other > FRAMES / 20, "{sent} sent, {other} not: a run that tests little");
    let (found, expected) = (Counters::read(&tables, 0..1), Counters::read(engine.tables(), 0..1));
    assert_eq!((found.reasons, found.events, found.vips), (expected.reasons, expected.events, expected.vips));
}
